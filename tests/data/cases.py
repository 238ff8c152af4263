"""The labelled data sets and facts about them that do not come from our files."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.data import layouts
from tests.data.layouts import Layout

from seg4diff.data.ade20k import Ade20k
from seg4diff.data.cityscapes import Cityscapes
from seg4diff.data.coco_stuff import CocoStuff
from seg4diff.data.labelled import LabelledImages
from seg4diff.data.pascal_context import PascalContext
from seg4diff.data.voc import Voc


@dataclass(frozen=True)
class Case:
    """A data set, and facts about it that do not come from our files: its largest mask value and what some values mean."""

    source: type[LabelledImages]
    layout: Layout
    vocabulary: str
    background: bool
    classes: int
    largest: int
    pixels: dict[int, str | None]

    def read(self, root: Path, **changes) -> LabelledImages:
        arguments = {"vocabulary": self.vocabulary, "background": self.background, "captions": None, "subset": None, "seed": 0}
        return self.source(**{"root": str(root), **arguments, **changes})


GROUPS = {0: "person", 2: "vehicle", 11: None, 16: "animal", 52: "food things", 105: "sky", 121: "food stuff", 147: "water", 156: "sky"}
THINGS = {0: "person", 10: "fire hydrant", 89: "toothbrush"}
VOC = {1: "aeroplane", 7: "car", 11: "dining table", 15: "person", 20: "tv monitor"}
CONTEXT = {1: "aeroplane", 2: "bag", 15: "cat", 37: "person", 47: "sky", 59: "wood"}
ADE = {0: None, 1: "wall", 8: "bed", 13: "person", 21: "car", 150: "flag"}
CITY = {0: None, 6: None, 7: "road", 11: "building", 24: "person", 31: "train", 33: "bicycle"}
CASES = {
    "stuff": Case(CocoStuff, layouts.COCO, "coco_stuff", False, 171, 181, THINGS | {11: None, 90: None, 91: "banner", 181: "wood"}),
    "stuff 27": Case(CocoStuff, layouts.COCO, "coco_stuff_27", False, 27, 181, GROUPS),
    "object 80": Case(CocoStuff, layouts.COCO, "coco_object", False, 80, 181, THINGS | {11: None, 91: None, 181: None}),
    "object 81": Case(CocoStuff, layouts.COCO, "coco_object", True, 81, 181, THINGS | dict.fromkeys([11, 91, 181], "background")),
    "voc 20": Case(Voc, layouts.VOC, "voc", False, 20, 20, VOC | {0: None}),
    "voc 21": Case(Voc, layouts.VOC, "voc", True, 21, 20, VOC | {0: "background"}),
    "context 59": Case(PascalContext, layouts.CONTEXT, "pascal_context", False, 59, 59, CONTEXT | {0: None}),
    "context 60": Case(PascalContext, layouts.CONTEXT, "pascal_context", True, 60, 59, CONTEXT | {0: "background"}),
    "ade": Case(Ade20k, layouts.ADE, "ade20k", False, 150, 150, ADE),
    "city 19": Case(Cityscapes, layouts.CITYSCAPES, "cityscapes", False, 19, 33, CITY | {9: None, 29: None}),
    "city 27": Case(Cityscapes, layouts.CITYSCAPES, "cityscapes_27", False, 27, 33, CITY | {9: "parking", 29: "caravan"}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
LAYOUTS = ["stuff", "voc 20", "context 59", "ade", "city 19"]
every_layout = pytest.mark.parametrize("case", [CASES[name] for name in LAYOUTS], ids=LAYOUTS)


def stems(source: LabelledImages, split: str) -> list[str]:
    samples = source.split(split, None, resize_mask=False)
    return [Path(samples.name(k)).stem for k in range(len(samples))]


ARCHIVES = {
    CocoStuff: ("COCO_ROOT", "{short}2017.zip", "stuffthingmaps_trainval2017.zip"),
    Voc: ("VOC_ROOT", "VOCtrainval_11-May-2012.tar", "VOCtrainval_11-May-2012.tar"),
    PascalContext: ("PASCAL_CONTEXT_ROOT", "VOCtrainval_03-May-2010.tar", "trainval_merged.json"),
    Ade20k: ("ADE20K_ROOT", "ADEChallengeData2016.zip", "ADEChallengeData2016.zip"),
    Cityscapes: ("CITYSCAPES_ROOT", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
}
"""The variable that says where a data set is, and the archives that its images and its masks come from."""

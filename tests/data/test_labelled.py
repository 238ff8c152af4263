"""Labelled data sets on miniatures of their original layouts: what a pixel means, what is checked before a run, who is named."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import layouts
from tests.data.layouts import Layout

from seg4diff.data.ade20k import Ade20k
from seg4diff.data.cityscapes import Cityscapes
from seg4diff.data.coco_stuff import CocoStuff
from seg4diff.data.labelled import LabelledImages
from seg4diff.data.pascal_context import PascalContext
from seg4diff.data.reading import UnreadableError
from seg4diff.data.sample import IGNORE
from seg4diff.data.voc import Voc
from seg4diff.data.vocabularies import read_vocabulary
from seg4diff.errors import MissingFileError, UserError


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


@pytest.fixture
def root(case: Case, tmp_path) -> Path:
    return case.layout.write(tmp_path / "data")


def stems(source: LabelledImages, split: str) -> list[str]:
    samples = source.split(split, None, resize_mask=False)
    return [Path(samples.name(k)).stem for k in range(len(samples))]


@every_case
def test_a_pixel_means_what_the_data_set_says(case, root):
    values = np.array([[*range(case.largest + 1), IGNORE]])
    layouts.write(*case.layout.pair(root, "val", 0), values)
    source = case.read(root)
    names = source.vocabulary.names
    samples = source.split("validation", None, resize_mask=False)
    mask = next(samples[k].mask for k in range(4) if samples[k].mask.shape == values.shape)
    found = {value: None if k == IGNORE else names[k] for value, k in zip(values.flat, mask.flatten().tolist(), strict=True)}
    assert {value: found[value] for value in case.pixels} == case.pixels
    assert found[IGNORE] is None
    assert len(names) == case.classes and set(names) == set(found.values()) - {None}, "every class has a pixel value"
    assert source.vocabulary.background == (0 if case.background else None)
    assert not case.background or names[0] == "background"


@every_layout
def test_images_and_masks_are_paired_by_name(case, root):
    source, names = case.read(root), read_vocabulary(case.vocabulary)
    source.prepare()
    for split, short in (("train", "train"), ("validation", "val"), ("test", "val")):
        samples = source.split(split, None, resize_mask=False)
        expected = {str(case.layout.pair(root, short, k)[0]): layouts.values_of(short, k) for k in range(4)}
        assert sorted(samples.name(k) for k in range(len(samples))) == sorted(expected)
        for sample in (samples[k] for k in range(4)):
            named = [None if k == IGNORE else source.vocabulary.names[k] for k in sample.mask.flatten().tolist()]
            assert named == [names.get(value + case.source.first_id) for value in expected[sample.name].flat]
            assert sample.mask.shape == sample.image.shape[1:] == layouts.SIZE


@every_layout
def test_an_image_whose_classes_are_all_ignored(case, root):
    for k in range(4):
        layouts.write(*case.layout.pair(root, "train", k), np.full(layouts.SIZE, IGNORE))
    sample = case.read(root).split("train", (6, 10), resize_mask=True)[0]
    assert (sample.mask == IGNORE).all() and sample.mask.shape == (6, 10) and sample.caption == ""


def test_background_is_no_word_of_a_caption(tmp_path):
    case = CASES["voc 21"]
    root = case.layout.write(tmp_path)
    layouts.write(*case.layout.pair(root, "val", 2), np.array([[0, 15, 255, 1]]))
    sample = case.read(root).split("validation", None, resize_mask=False)[0]  # the list begins with 2
    assert sample.mask.tolist() == [[0, 15, IGNORE, 1]] and sample.caption == "aeroplane person"


@every_layout
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_masks_of_8_and_16_bit_read_like_palettes(case, root, dtype):
    before = case.read(root).split("train", None, resize_mask=False)
    masks = [before[k].mask for k in range(4)]
    for k in range(4):
        Image.fromarray(layouts.values_of("train", k).astype(dtype)).save(case.layout.pair(root, "train", k)[1])
    for mask, sample in zip(masks, case.read(root).split("train", None, resize_mask=False), strict=False):
        assert torch.equal(mask, sample.mask)


@every_layout
def test_a_value_that_the_data_set_does_not_define_names_the_file(case, root):
    mask = case.layout.pair(root, "val", 0)[1]
    Image.fromarray(np.full(layouts.SIZE, case.largest + 1, dtype=np.uint8)).save(mask)
    source = case.read(root)
    index = stems(source, "validation").index(case.layout.pair(root, "val", 0)[0].stem)
    with pytest.raises(UserError, match=rf"{mask.name} holds values above {case.largest}: \[{case.largest + 1}\]"):
        source.split("validation", None, resize_mask=False)[index]


ARCHIVES = {
    CocoStuff: ("COCO_ROOT", "{short}2017.zip", "stuffthingmaps_trainval2017.zip"),
    Voc: ("VOC_ROOT", "VOCtrainval_11-May-2012.tar", "VOCtrainval_11-May-2012.tar"),
    PascalContext: ("PASCAL_CONTEXT_ROOT", "VOCtrainval_03-May-2010.tar", "trainval_merged.json"),
    Ade20k: ("ADE20K_ROOT", "ADEChallengeData2016.zip", "ADEChallengeData2016.zip"),
    Cityscapes: ("CITYSCAPES_ROOT", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
}


@every_layout
def test_files_without_a_partner_are_counted_and_named_before_the_run(case, root):
    mask_gone, image_gone = case.layout.pair(root, "train", 1)[1], case.layout.pair(root, "val", 2)[0]
    mask_gone.unlink()
    image_gone.unlink()
    variable, images, masks = ARCHIVES[case.source]
    with pytest.raises(MissingFileError, match=rf"set {variable} or `root`") as error:
        case.read(root).prepare()
    assert f"1 of 4 masks, {mask_gone} (from {masks}" in str(error.value)
    assert f"1 of 4 images, {image_gone} (from {images.format(short='val')}" in str(error.value)


@every_layout
def test_the_check_opens_no_file_and_names_a_few(case, root, monkeypatch):
    folder = case.layout.folders(root, "train")[0]
    for k in range(30):
        (folder / f"{k:03d}{case.layout.suffixes[0]}").touch()
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    if case.layout.listed is not None:
        case.read(root).prepare()  # what no list names is not missed
        return
    with pytest.raises(MissingFileError, match=r"30 of 34 masks, .* \.\.\. \(from") as error:
        case.read(root).prepare()
    assert 1 <= str(error.value).count(str(case.layout.folders(root, "train")[1])) < 10


@every_layout
def test_whole_folders_and_lists_are_named_once(case, tmp_path):
    variable, images, masks = ARCHIVES[case.source]
    with pytest.raises(MissingFileError, match=variable) as error:
        case.read(tmp_path / "nowhere").prepare()
    message = str(error.value)
    assert images.format(short="train") in message and images.format(short="val") in message
    assert masks in message and "of 0" not in message
    if case.layout.listed is not None:
        assert str(tmp_path / "nowhere" / case.layout.listed.format(split="val")) in message


@every_layout
def test_evaluation_alone_needs_no_training_images(case, root):
    for k in range(4):
        case.layout.pair(root, "train", k)[0].unlink()
    case.read(root).prepare(["validation", "test"])
    with pytest.raises(MissingFileError):
        case.read(root).prepare(["train"])


@every_layout
def test_captions_are_needed_for_the_chosen_training_images_alone(case, root, tmp_path):
    file, chosen = tmp_path / "captions.json", stems(case.read(root, subset=2, seed=3), "train")
    assert len(chosen) == 2
    file.write_text(json.dumps({stem: f"about {stem}" for stem in chosen}))
    source = case.read(root, captions=str(file), subset=2, seed=3)
    source.prepare()
    samples = source.split("train", None, resize_mask=True)
    assert [samples[k].caption for k in range(2)] == [f"about {stem}" for stem in chosen]
    plain = case.read(root).split("validation", None, resize_mask=False)[0]
    assert source.split("validation", None, resize_mask=False)[0].caption == plain.caption != ""
    (root / "more.txt").write_text("\n".join(case.layout.name("train", k) for k in range(4)))
    more = case.read(root, captions=str(file), lists={"train": str(root / "more.txt")})
    with pytest.raises(MissingFileError, match=rf"of 2 of 4 images in {file}.* For the captions, set `captions`") as error:
        more.prepare()
    assert case.source.variable not in str(error.value), "no archive is missing"
    with pytest.raises(UserError, match=rf"{file} has no caption for 2 of 4 images.*: set `captions`"):
        more.split("train", None, resize_mask=True)


@every_layout
def test_a_list_says_which_images_make_up_a_split(case, root):
    case.layout.pair(root, "train", 0)[0].unlink()
    layouts.lines(root / "mine.txt", [case.layout.name("train", k) for k in (2, 1)])
    source = case.read(root, lists={"train": str(root / "mine.txt")})
    source.prepare()
    assert stems(source, "train") == [case.layout.pair(root, "train", k)[0].stem for k in (2, 1)]
    assert len(stems(source, "validation")) == 4
    with pytest.raises(MissingFileError, match=r"list .*no\.txt \(from `lists`\)"):
        case.read(root, lists={"test": str(root / "no.txt")}).prepare(["test"])
    layouts.lines(root / "empty.txt", [])
    empty = case.read(root, lists={"test": str(root / "empty.txt")})
    with pytest.raises(MissingFileError, match=r"list .*empty\.txt \(from `lists`\), which is empty"):
        empty.prepare(["test"])
    with pytest.raises(UserError, match=r"list .*empty\.txt .*write one image per line"):
        empty.rows("test")


def test_voc_takes_its_own_mask_before_an_added_one(tmp_path):
    root, voc = layouts.VOC.write(tmp_path), CASES["voc 20"]
    own = [f"2007_train{k}" for k in range(4)]
    layouts.write(root / "JPEGImages/2008_added.jpg", root / "SegmentationClassAug/2008_added.png", np.full(layouts.SIZE, 20))
    layouts.palette(np.full(layouts.SIZE, 1)).save(root / "SegmentationClassAug/2007_train1.png")
    with pytest.raises(MissingFileError, match=r"trainaug\.txt .*voc_aug\.py"):
        voc.read(root).prepare()
    layouts.lines(root / "ImageSets/Segmentation/trainaug.txt", ["2008_added", *own])
    source = voc.read(root)
    source.prepare()
    assert stems(source, "train") == ["2008_added", *own] and len(stems(source, "validation")) == 4
    samples = source.split("train", None, resize_mask=False)
    assert (samples[0].mask == 19).all()
    assert torch.equal(samples[2].mask, torch.from_numpy(layouts.values_of("train", 1)) - 1)


def test_an_unknown_vocabulary_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary 'voc22': .*ade20k, cityscapes, cityscapes_27"):
        CASES["voc 20"].read(tmp_path, vocabulary="voc22")


@every_layout
def test_a_file_that_cannot_be_read_is_named_with_its_archive(case, root):
    _, images, masks = ARCHIVES[case.source]
    for which, archive in enumerate((images, masks)):
        file = case.layout.pair(root, "val", 3)[which]
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        samples = case.read(root).split("validation", None, resize_mask=False)
        index = [samples.name(k) for k in range(4)].index(str(case.layout.pair(root, "val", 3)[0]))
        with pytest.raises(UnreadableError) as error:
            samples[index]
        assert f"{('image', 'mask')[which]} {file} cannot be read" in str(error.value)
        assert f"take it from {archive.format(short='val')}" in str(error.value)
        file.write_bytes(whole)


def test_of_several_captions_the_first_is_taken(tmp_path):
    """As COCO gives five for each image."""
    root = layouts.ADE.write(tmp_path / "data")
    captions = {layouts.ADE.name("train", k): ["", "first", "second"][k % 2 :] for k in range(4)}
    (tmp_path / "captions.json").write_text(json.dumps(captions | {layouts.ADE.name("train", 3): []}))
    samples = CASES["ade"].read(root, captions=str(tmp_path / "captions.json")).split("train", None, resize_mask=True)
    assert [samples[k].caption for k in range(4)] == ["first", "first", "first", ""]


@every_layout
def test_images_are_upright_in_every_data_set(case, root):
    """As a viewer shows them, with the masks that were drawn on them."""
    exif = Image.Exif()
    exif[0x0112] = 8
    image, _ = case.layout.pair(root, "val", 0)
    height, width = layouts.SIZE
    Image.new("RGB", (height, width)).save(image, exif=exif)
    samples = case.read(root).split("validation", None, resize_mask=False)
    index = [samples.name(k) for k in range(4)].index(str(image))
    assert samples[index].image.shape == (3, height, width)
    Image.new("RGB", (width, height)).save(image, exif=exif)
    with pytest.raises(UserError, match=r"must have one size, both turned upright as their EXIF orientation says"):
        samples[index]


BROKEN_CAPTIONS = {"[1, 2]": "one JSON object of image stem: caption", '{"a": 1}': "both strings", "{": "is not JSON"}


@pytest.mark.parametrize("text", BROKEN_CAPTIONS)
def test_captions_of_another_form(text, tmp_path):
    root = layouts.ADE.write(tmp_path / "data")
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(UserError, match=rf"{BROKEN_CAPTIONS[text]}.*: set `captions`"):
        CASES["ade"].read(root, captions=str(tmp_path / "captions.json")).split("train", None, resize_mask=True)

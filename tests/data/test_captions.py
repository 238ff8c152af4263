"""Captions of labelled data sets: from a file, or the names of the classes."""

import json

import numpy as np
import pytest
from tests.data import layouts
from tests.data.cases import CASES, every_layout, stems

from seg4diff.data.sample import IGNORE
from seg4diff.errors import MissingFileError, UserError


def test_background_is_no_word_of_a_caption(tmp_path):
    case = CASES["voc 21"]
    root = case.layout.write(tmp_path)
    layouts.write(*case.layout.pair(root, "val", 2), np.array([[0, 15, 255, 1]]))
    sample = case.read(root).split("validation", None, resize_mask=False)[0]  # the list begins with 2
    assert sample.mask.tolist() == [[0, 15, IGNORE, 1]] and sample.caption == "aeroplane person"


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
    with pytest.raises(MissingFileError, match=rf"of 2 of 4 images in {file}.* For the captions, set data\.source\.captions") as error:
        more.prepare()
    assert case.source.variable not in str(error.value), "no archive is missing"
    with pytest.raises(UserError, match=rf"{file} has no caption for 2 of 4 images.*: set data\.source\.captions"):
        more.split("train", None, resize_mask=True)


def test_of_several_captions_the_first_is_taken(tmp_path):
    """As COCO gives five for each image."""
    root = layouts.ADE.write(tmp_path / "data")
    captions = {layouts.ADE.name("train", k): ["", "first", "second"][k % 2 :] for k in range(4)}
    (tmp_path / "captions.json").write_text(json.dumps(captions | {layouts.ADE.name("train", 3): []}))
    samples = CASES["ade"].read(root, captions=str(tmp_path / "captions.json")).split("train", None, resize_mask=True)
    assert [samples[k].caption for k in range(4)] == ["first", "first", "first", ""]


BROKEN_CAPTIONS = {"[1, 2]": "one JSON object of image stem: caption", '{"a": 1}': "both strings", "{": "is not JSON"}


@pytest.mark.parametrize("text", BROKEN_CAPTIONS)
def test_captions_of_another_form(text, tmp_path):
    root = layouts.ADE.write(tmp_path / "data")
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(UserError, match=rf"{BROKEN_CAPTIONS[text]}.*: set data\.source\.captions"):
        CASES["ade"].read(root, captions=str(tmp_path / "captions.json")).split("train", None, resize_mask=True)

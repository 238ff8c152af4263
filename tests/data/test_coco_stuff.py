"""COCO-Stuff on a miniature of its original layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg4diff.data.coco_stuff import CocoStuff
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError

# Pixel value (category id - 1) -> class name, None = ignored. From the data set's labels.txt, not from our file.
PIXELS = {
    0: "person",
    10: "fire hydrant",
    11: None,
    12: "stop sign",
    25: None,
    89: "toothbrush",
    90: None,
    181: "wood",
    255: None,
}
UNUSED = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
"""Category ids between 1 and 182 that COCO never used."""


@pytest.fixture
def root(tmp_path) -> Path:
    values = np.array([[*list(PIXELS)[:4], 255], list(PIXELS)[4:]], dtype=np.uint8)
    for folder, count in (("train2017", 8), ("val2017", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / "stuffthingmaps" / folder).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (5, 2), (20 * k, 0, 0)).save(tmp_path / folder / f"{k:012d}.jpg")
            Image.fromarray(values).save(tmp_path / "stuffthingmaps" / folder / f"{k:012d}.png")
    return tmp_path


def source(root: Path, **changes) -> CocoStuff:
    return CocoStuff(**{"root": str(root), "captions": None, "subset": None, "seed": 0} | changes)


def test_pixels_become_contiguous_classes(root):
    data = source(root)
    data.prepare()
    mask = data.split("validation", None, resize_mask=False)[0].mask
    assert mask.shape == (2, 5)
    names = [None if k == IGNORE else data.vocabulary.names[k] for k in mask.flatten().tolist()]
    assert names == [*list(PIXELS.values())[:4], None, *list(PIXELS.values())[4:]]


def test_all_182_ids_map_onto_171_classes_in_order(root):
    values = np.arange(182, dtype=np.uint8).reshape(14, 13)
    Image.fromarray(values).save(root / "stuffthingmaps/val2017" / f"{0:012d}.png")
    Image.new("RGB", (13, 14)).save(root / "val2017" / f"{0:012d}.jpg")
    data = source(root)
    mask = data.split("test", None, resize_mask=False)[0].mask.flatten()
    used = [category - 1 for category in range(1, 183) if category not in UNUSED]
    assert mask[used].tolist() == list(range(171)) and len(data.vocabulary) == 171
    assert (mask == IGNORE).sum() == 182 - 171


def test_a_value_that_is_no_category_names_the_file(root):
    file = root / "stuffthingmaps/val2017" / f"{0:012d}.png"
    Image.fromarray(np.full((2, 5), 182, dtype=np.uint8)).save(file)
    with pytest.raises(UserError, match=f"{file.name} holds values above 181"):
        source(root).split("test", None, resize_mask=False)[0]


def stems(data, split="train"):
    samples = data.split(split, None, resize_mask=True)
    return [Path(samples.name(k)).stem for k in range(len(samples))]


def test_subset_is_a_function_of_the_seed_and_concerns_training_alone(root):
    everything = [f"{k:012d}" for k in range(8)]
    drawn = {seed: stems(source(root, subset=3, seed=seed)) for seed in range(6)}
    for seed, chosen in drawn.items():
        assert len(set(chosen)) == 3 and set(chosen) <= set(everything)
        assert stems(source(root, subset=3, seed=seed)) == chosen
    assert len({tuple(chosen) for chosen in drawn.values()}) > 1
    assert stems(source(root)) == stems(source(root, subset=50)) == everything
    for none in (0, -5):
        with pytest.raises(UserError, match=rf"`subset` must be .* at least 1, found {none}"):
            source(root, subset=none)
    assert stems(source(root, subset=1), "validation") == stems(source(root), "test") == everything[:2]


def test_caption_is_the_json_entry_or_else_the_class_names(root):
    file = root / "captions.json"
    file.write_text(json.dumps({f"{k:012d}": f"caption of {k}" for k in range(8)}))
    chosen = source(root, captions=str(file), subset=2, seed=1)
    chosen.prepare()
    samples = chosen.split("train", None, resize_mask=True)
    assert [samples[k].caption for k in range(2)] == [f"caption of {int(stem)}" for stem in stems(chosen)]
    assert source(root).split("train", None, resize_mask=True)[0].caption == "person fire hydrant stop sign toothbrush wood"


def test_everything_missing_is_told_at_once(root):
    shutil.rmtree(root / "val2017")
    shutil.rmtree(root / "stuffthingmaps" / "train2017")
    with pytest.raises(UserError, match=r"set COCO_ROOT or `root`") as error:
        source(root, captions=str(root / "no.json")).prepare()
    message = str(error.value)
    for path in ("val2017 (from val2017.zip)", "stuffthingmaps/train2017 (from stuffthingmaps_trainval2017.zip)", "no.json"):
        assert str(root / path) in message
    assert str(root / "train2017") not in message and str(root / "stuffthingmaps/val2017") not in message


def test_an_image_without_mask_is_named(root):
    (root / "stuffthingmaps/val2017" / f"{1:012d}.png").unlink()
    samples = source(root).split("validation", None, resize_mask=False)
    with pytest.raises(
        UserError, match=r"mask .*val2017/000000000001\.png cannot be read \(No such file.*take it from stuffthingmaps_trainval2017\.zip"
    ):
        samples[1]

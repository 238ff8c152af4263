"""Connected parts of a label map and their COCO annotations."""

import numpy as np
import pytest

from seg4diff.data.rle import RunLengths
from seg4diff.segmentation.instances import instances

LABELS = np.array(
    [
        [0, 0, 1, 1, 255],
        [0, 0, 1, 0, 255],
        [1, 1, 1, 1, 0],
    ]
)


def test_parts_have_boxes_points_and_areas_from_the_largest():
    found = list(instances(LABELS, ["sky", "sea"], 1))
    assert [(part.name, part.area, part.box, part.point) for part in found] == [
        ("sea", 7, (0, 0, 4, 3), (2, 0)),
        ("sky", 4, (0, 0, 2, 2), (0, 0)),
        ("sky", 2, (3, 1, 2, 2), (3, 1)),
    ], "pixels that touch at a corner are one part"
    assert all((LABELS[part.mask] == part.category).all() for part in found)


def test_small_parts_and_words_without_pixels_are_left_out():
    assert [part.area for part in instances(LABELS, ["sky", "sea", "tree"], 3)] == [7, 4]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_annotations_hold_the_mask(share):
    mask = np.random.default_rng(0).random((37, 61)) < share
    lengths = RunLengths.of(mask)
    read = RunLengths.parse({"size": [37, 61], "counts": lengths.pack()})
    assert (read.draw() == mask).all() and read.area == mask.sum()


def test_the_packed_string_is_that_of_coco():
    """Runs of 3, 3 and 6 pixels, and of 0 and 12: one character each, its code that of "0" and the length."""
    assert RunLengths.of(np.array([[0, 1, 0, 0]] * 3, dtype=bool)).pack() == "336"
    assert RunLengths.of(np.ones((3, 4), dtype=bool)).pack() == "0<"


def test_an_annotation_has_the_keys_of_coco():
    (sea, *_) = instances(LABELS, ["sky", "sea"], 1)
    found = sea.coco()
    assert (found["bbox"], found["area"], found["category_id"], found["iscrowd"]) == ([0, 0, 4, 3], 7, 1, 0)
    assert (RunLengths.parse(found["segmentation"]).draw() == sea.mask).all()

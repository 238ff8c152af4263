"""Overlays and sheets: what lies where."""

import numpy as np
import pytest
import torch
from PIL import Image

from seg4diff.pictures import class_colours, contact_sheet, overlay, overlay_regions, sheet

GREY = (90, 90, 90)


def array(picture: Image.Image) -> np.ndarray:
    return np.array(picture).astype(int)


def test_labels_are_tinted_ignored_pixels_darkened_and_borders_drawn():
    labels = torch.zeros(300, 400, dtype=torch.long)
    labels[:, 200:] = 1
    labels[200:] = 255
    colours = class_colours(2).astype(int)
    picture = array(overlay(Image.new("RGB", (400, 300), GREY), labels, ["", ""], opacity=0.5))
    for (row, column), colour in {(20, 20): colours[0], (20, 380): colours[1], (280, 20): (40, 40, 40)}.items():
        assert abs(picture[row, column] - (np.array(GREY) + colour) / 2).max() <= 1
    white = (picture == 255).all(-1)
    assert white[:199, 199].all() and white[199].all() and white.sum() == 199 + 400


@pytest.mark.parametrize("shape", [(300, 400), (1000, 700)])
def test_a_name_stands_where_its_region_is_widest_and_within_the_picture(shape):
    """A frame around a hole, wider below, and a thin strip at the edge."""
    height, width = shape
    labels = torch.full(shape, 255)
    labels[height // 3 :] = 0
    labels[height // 2 : height * 2 // 3, width // 4 : width * 3 // 4] = 255
    labels[:, :8] = 1
    image = Image.new("RGB", (width, height), GREY)
    plain = array(overlay(image, labels, ["", ""]))
    frame, edge = (np.nonzero((array(overlay(image, labels, names)) != plain).any(-1)) for names in (["o", ""], ["", "a long name"]))
    assert frame[0].min() > height * 2 // 3, "of the frame, the lower part is the widest"
    assert np.ptp(edge[1]) > 4 * np.ptp(edge[0]), "moved to where all of it is seen"


def test_smaller_regions_lie_on_larger_ones_and_the_rest_stays_as_it_is():
    regions = torch.zeros(3, 20, 30, dtype=torch.bool)
    regions[0, 5:8, 5:9] = True
    regions[1, 2:18, 2:20] = True
    colours = class_colours(3).astype(int)
    picture = array(overlay_regions(Image.new("RGB", (30, 20), GREY), regions, opacity=1.0))
    assert (picture[0, 0] == GREY).all() and (picture[19, 29] == GREY).all()
    assert (picture[6, 6] == colours[0]).all() and (picture[15, 15] == colours[1]).all()
    assert (picture[17, 5] == 255).all() and (picture[5, 8] == 255).all(), "outlines"
    nothing = array(overlay_regions(Image.new("RGB", (30, 20), GREY), torch.zeros(0, 20, 30, dtype=torch.bool)))
    assert (nothing == GREY).all()


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_no_picture_of_a_sheet_covers_another_one_or_a_text(columns):
    colours = [(200, 30 * k, 0) for k in range(5)]
    sizes = [(100, 60), (40, 120), (100, 100), (120, 30), (60, 60)]
    entries = [([Image.new("RGB", size, colour)] * 2, "words " * 30) for size, colour in zip(sizes, colours, strict=True)]
    page = array(contact_sheet(entries, "title", columns))
    for size, colour in zip(sizes, colours, strict=True):
        assert (page == colour).all(-1).sum() == 2 * size[0] * size[1], "both of the pair are there, whole"
    text = (page.max(-1) == page.min(-1)) & (page.max(-1) < 100)
    rows = np.flatnonzero(text.any(1))
    assert rows[-1] < len(page) - 1, "the last line is not cut off"


@pytest.mark.parametrize("name", ["two\nlines", "night\u2028sky", "a\tb", "猫", "x" * 200, "\x00\x01"])
def test_a_name_of_any_signs_is_written(name):
    labels = torch.zeros(300, 400, dtype=torch.long)
    plain, named = (array(overlay(Image.new("RGB", (400, 300), GREY), labels, [own])) for own in ("", name))
    assert plain.shape == named.shape and (plain != named).any()


def test_long_titles_of_rows_are_broken_and_leave_the_pictures_their_room():
    pictures = [[Image.new("RGB", (300, 200), "red")] * 2] * 2
    page = array(sheet(pictures, ["a small star above a large moon in the night sky " * 2, ""], ["base", "LoRA"]))
    red = (page == (255, 0, 0)).all(-1)
    assert red.sum() == 4 * 300 * 200, "no title covers a picture"
    left = np.flatnonzero(red.any(0))[0]
    assert left <= 310 and (page[:, :left] < 128).any(), "titles stand to the left of the pictures, and are no wider"

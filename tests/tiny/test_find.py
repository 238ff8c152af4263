"""Things are found by shape and colour, in images that the tests paint themselves."""

import numpy as np
import pytest
from PIL import Image

from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS, Brush
from seg4diff.errors import UserError
from seg4diff.tiny.find import find

HEIGHT, WIDTH = 96, 128


def ground(name, seed=0):
    """A background that is not square: the left of a square one."""
    return STUFF[name](np.random.default_rng(seed), WIDTH)[:HEIGHT].clip(0, 255).astype(np.uint8)


def paint(image, name, left, top, size=40, brightness=0.5):
    """The image with a thing on it."""
    thing = next(thing for thing in THINGS if thing.name == name)
    low, high = np.array(thing.darkest), np.array(thing.brightest)
    brush = Brush(3 * size)
    thing.paint(brush, tuple(int(channel) for channel in low + brightness * (high - low)))
    tile = brush.tile.resize((size, size), Image.Resampling.BOX)
    picture = Image.fromarray(image)
    picture.paste(tile, (left, top), tile)
    return np.array(picture)


def names(image):
    return sorted(thing.placed.name for thing in find(image).things)


@pytest.mark.parametrize("name", STUFF)
def test_a_bare_ground_is_named_and_nothing_is_found_on_it(name):
    findings = find(ground(name, seed=7))
    assert (findings.ground, findings.things) == (name, ()) and findings.ground_share > 0.9


@pytest.mark.parametrize("thing", [thing.name for thing in THINGS])
def test_each_thing_is_found_where_it_is(thing):
    (found,) = find(paint(ground("grass"), thing, 70, 30, size=40)).things
    assert found.placed.name == thing and found.structure > 0.75
    assert np.abs(np.array(found.placed.centre) * (WIDTH, HEIGHT) - (90, 50)).max() <= 3
    assert 0.30 + found.placed.size * 0.22 == pytest.approx(40 / 96, abs=0.05)


@pytest.mark.parametrize("name", ["heart", "flower", "house", "brick"])
def test_dark_and_bright_things_are_told_apart(name):
    (dark,), (bright,) = (find(paint(ground("water"), name, 20, 40, brightness=level)).things for level in (0.1, 0.9))
    assert dark.placed.brightness < 0.3 and bright.placed.brightness > 0.7


def test_things_that_touch_are_counted():
    image = paint(paint(ground("sand"), "heart", 10, 10), "heart", 48, 14)
    assert names(paint(image, "heart", 30, 50)) == ["heart"] * 3


def test_a_thing_partly_under_another_is_found():
    image = paint(paint(ground("snow"), "traffic cone", 20, 20, size=46), "apple", 46, 46, size=36)
    assert names(image) == ["apple", "traffic cone"]


@pytest.mark.parametrize("name", ["star", "fish", "tree", "traffic cone", "wheel"])
def test_a_blob_of_the_right_colour_is_not_the_thing(name):
    thing = next(thing for thing in THINGS if thing.name == name)
    brush = Brush(120)
    brush.ellipse(0.5, 0.5, 0.5, 0.5, thing.brightest)
    tile = brush.tile.resize((40, 40), Image.Resampling.BOX)
    picture = Image.fromarray(ground("night sky"))
    picture.paste(tile, (30, 30), tile)
    assert name not in names(np.array(picture))


def test_the_structure_of_a_cut_thing_is_worse():
    whole = paint(ground("water"), "flower", 30, 30)
    cut = whole.copy()
    cut[30:37] = ground("water")[30:37]
    (whole,), (cut,) = find(whole).things, find(cut).things
    assert whole.structure > cut.structure + 0.03


def test_an_image_is_a_function_of_its_pixels_alone():
    scene = make_scene(3, "test", 4)
    assert find(scene.image) == find(Image.fromarray(scene.image))


@pytest.mark.parametrize("shape", [(30, 64, 3), (64, 63, 3), (64, 64, 4)])
def test_images_in_which_nothing_can_be_found_are_refused(shape):
    with pytest.raises(UserError, match="even sides of at least 32 pixels"):
        find(np.zeros(shape, dtype=np.uint8))

"""Scenes of the toy world: what is where, and how it is painted."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from seg4diff.data.source import SPLITS
from seg4diff.data.toyworld.captions import Placed, write_caption
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS, Brush, Thing

CLASS_NAMES: tuple[str, ...] = tuple(thing.name for thing in THINGS) + tuple(STUFF)
"""Class id = position in this tuple: the things first, then the stuff."""
_SUPERSAMPLING = 3
SIZES = (0.30, 0.52)
"""Smallest and largest side of a thing, as a share of the image side."""
RANDOM_SHARE = 0.3
"""Share of the range of its colours that each channel of a thing draws for itself; the rest is its brightness."""
_MOST_HIDDEN = 0.15
"""A thing is placed only where it hides at most this share of any other."""


@dataclass(frozen=True)
class Scene:
    """One captioned picture with exact masks.

    Attributes:
        image: (side, side, 3) uint8 RGB.
        mask: (side, side) uint8 class ids, indices into `CLASS_NAMES`; every pixel is labelled.
        instances: (side, side) uint8; 0 = stuff, 1..4 = the things in painting order.
        caption: one sentence or a bare list of nouns.
        classes: names of the classes with at least one visible pixel, sorted by class id.
        things: what words can tell of each thing, in painting order.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    caption: str
    classes: tuple[str, ...]
    things: tuple[Placed, ...]


def make_scene(seed: int, split: str, index: int, side: int = 96) -> Scene:
    """Draw the scene with this (seed, split, index): the same arguments give the same bytes, different splits share no scene.

    Args:
        seed: any non-negative integer.
        split: one of `SPLITS`.
        index: position in the split, >= 0.
        side: image height and width in pixels.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    stuff = str(rng.choice(list(STUFF)))
    canvas = STUFF[stuff](rng, side) * rng.uniform(0.9, 1.1)
    mask = np.full((side, side), CLASS_NAMES.index(stuff), dtype=np.uint8)
    instances = np.zeros((side, side), dtype=np.uint8)
    placed: list[Placed] = []
    for thing in _choose_things(rng):
        brightness, share = rng.random(), rng.uniform(*SIZES)
        tile = _paint(rng, thing, brightness, round(share * side))
        window = _find_window(rng, tile, instances)
        if window is None:
            continue
        alpha = tile[..., 3:] / 255.0
        inside = alpha[..., 0] >= 0.5
        canvas[window] = canvas[window] * (1 - alpha) + tile[..., :3] * alpha
        rows, columns = window
        centre = ((columns.start + columns.stop) / 2 / side, (rows.start + rows.stop) / 2 / side)
        placed.append(Placed(thing.name, brightness, (share - SIZES[0]) / (SIZES[1] - SIZES[0]), centre))
        mask[window][inside], instances[window][inside] = CLASS_NAMES.index(thing.name), len(placed)
    canvas = canvas + rng.normal(0, 1.0, canvas.shape)
    present = tuple(CLASS_NAMES[k] for k in np.unique(mask))
    caption = write_caption(rng, stuff, placed)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), mask, instances, caption, present, tuple(placed))


def _choose_things(rng: np.random.Generator) -> list[Thing]:
    count = int(rng.choice(4, p=(0.1, 0.3, 0.35, 0.25))) + 1
    chosen = [THINGS[k] for k in rng.choice(len(THINGS), count, replace=False)]
    if count > 1 and rng.random() < 0.25:
        chosen[-1] = chosen[0]
    return chosen


def _find_window(rng: np.random.Generator, tile: np.ndarray, instances: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns where the tile hides little of what is there already, or None when no such place was found."""
    side, size = instances.shape[0], tile.shape[0]
    inside = tile[..., 3] >= 128
    areas = np.bincount(instances.ravel(), minlength=5)
    for top, left in rng.integers(0, side - size + 1, (20, 2)):
        window = slice(int(top), int(top) + size), slice(int(left), int(left) + size)
        hidden = np.bincount(instances[window][inside], minlength=5)
        if (hidden[1:] <= _MOST_HIDDEN * areas[1:]).all():
            return window
    return None


def _paint(rng: np.random.Generator, thing: Thing, brightness: float, size: int) -> np.ndarray:
    """Paint one thing, slightly turned, lit from above: (size, size, 4) float, RGB and alpha in [0, 255]."""
    low, high = np.asarray(thing.darkest), np.asarray(thing.brightest)
    red, green, blue = (int(channel) for channel in low + (high - low) * ((1 - RANDOM_SHARE) * brightness + RANDOM_SHARE * rng.random(3)))
    brush = Brush(size * _SUPERSAMPLING)
    thing.paint(brush, (red, green, blue))
    picture = brush.tile.rotate(rng.uniform(-20, 20), resample=Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tile = np.array(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    tile[..., :3] *= lit_from_above(size)[:, None, None] + 0.02 * rng.standard_normal((size, size, 1))
    return tile


def lit_from_above(size: int) -> np.ndarray:
    """Factor on the colours of each row of a thing, (size,)."""
    return 1.0 + 0.12 * np.linspace(1, -1, size)

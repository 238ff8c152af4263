"""How well a pixel fits the colours of a ground and of the parts of a thing, all taken from the code that draws them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS, Brush, Thing

LIGHT = np.linspace(0.88, 1.12, 5)
"""A thing is lit from above, a ground is brighter or darker as a whole: factors on a colour."""
SPREAD = 22.0
"""Distance between two colours, of 255, at which they begin to differ: room for noise, blur and a model's own errors."""
MOST = 3.0
"""Most that one pixel can speak for or against a part."""
_CELLS = 32
"""Cells of the colour cube along each channel: what is known of colours is kept in tables."""
_PAINTED = 240
"""Side of the tile on which parts are told apart."""


@dataclass(frozen=True)
class Part:
    """The pixels of a thing that one brush stroke colours alike.

    Attributes:
        mask: (side, side) bool on a painted tile.
        darkest: RGB where the thing has its darkest colour.
        brightest: RGB where it has its brightest; the same where "dark" and "bright" do not change it.
    """

    mask: np.ndarray
    darkest: np.ndarray
    brightest: np.ndarray

    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest RGB (K, 3) of the part, for each shade and each light."""
        span = self.brightest - self.darkest
        levels = np.array([0.0, 0.35, 0.7]) if span.any() else np.zeros(1)
        ends = [self.darkest + np.minimum(levels + width, 1)[:, None] * span for width in (0.0, 0.3)]
        low, high = np.minimum(*ends), np.maximum(*ends)  # a shade may be darker where the colour is brighter
        return tuple((LIGHT[:, None, None] * end).reshape(-1, 3).clip(0, 255) for end in (low, high))


@lru_cache
def parts_of(thing: Thing) -> tuple[Part, ...]:
    """Paint the thing in its darkest and its brightest colour: pixels that change alike are one part, the largest first."""
    tiles = [_painted(thing, colour) for colour in (thing.darkest, thing.brightest)]
    inside = tiles[0][..., 3] > 0
    pairs = np.concatenate([tile[inside][:, :3] for tile in tiles], axis=-1)
    _, first, inverse = np.unique(pairs @ 256 ** np.arange(6)[::-1], return_index=True, return_inverse=True)
    numbers = np.full(inside.shape, -1)
    numbers[inside] = inverse
    parts = [Part(numbers == k, pair[:3].astype(float), pair[3:].astype(float)) for k, pair in enumerate(pairs[first])]
    return tuple(sorted(parts, key=lambda part: -part.mask.sum()))


def _painted(thing: Thing, colour: tuple[int, int, int]) -> np.ndarray:
    brush = Brush(_PAINTED)
    thing.paint(brush, colour)
    return np.array(brush.tile)


def codes(pixels: np.ndarray) -> np.ndarray:
    """Number of the cell of the colour cube that each pixel (..., 3) in [0, 255] lies in; see `_CELLS`."""
    cells = pixels.astype(np.int64) * _CELLS // 256
    return (cells[..., 0] * _CELLS + cells[..., 1]) * _CELLS + cells[..., 2]


@lru_cache
def _cube() -> np.ndarray:
    """The colour in the middle of each cell: (cells, 3)."""
    middle = (np.arange(_CELLS) + 0.5) * 256 / _CELLS
    return np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), axis=-1).reshape(-1, 3)


@lru_cache
def part_distances(thing: Thing) -> np.ndarray:
    """How far each cell of the colour cube is from each part of a thing, in squared spreads: (parts, cells).

    A pixel on the seam of two parts has a colour half-way between them, which counts for both, though not in full.
    """
    boxes = [part.boxes() for part in parts_of(thing)]
    distances = []
    for low, high in boxes:
        seams = [((low.mean(axis=0) + other[0].mean(axis=0)) / 2, (high.mean(axis=0) + other[1].mean(axis=0)) / 2) for other in boxes]
        distances.append(np.minimum(_nearest(zip(low, high, strict=True)), 1 + _nearest(seams)))
    return np.stack(distances).astype(np.float32)


def _nearest(boxes: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Distance of each cell of the colour cube to the nearest of several boxes (lowest RGB, highest RGB), in squared spreads."""
    return np.min([np.square(_cube() - _cube().clip(*box)).sum(axis=-1) for box in boxes], axis=0) / (2 * SPREAD**2)


@dataclass(frozen=True, eq=False)
class Ground:
    """A kind of background as its pixels are: a colour, and how far it is lightened and darkened by its texture.

    Attributes:
        name: its noun.
        light: a factor on its colours.
        colour: RGB.
        usual: lowest and highest grey that the texture adds nearly everywhere.
        rare: the same with its rare bright spots (the stars).
    """

    name: str
    light: float
    colour: np.ndarray
    usual: tuple[float, float]
    rare: tuple[float, float]

    def distances(self, pixels: np.ndarray) -> np.ndarray:
        """Distance of each pixel (..., 3) to the nearest colour of this ground, in squared spreads."""
        grey = (pixels / self.light - self.colour).mean(axis=-1, keepdims=True)
        colours = [(self.light * (self.colour + grey.clip(*ends))).clip(0, 255) for ends in (self.usual, self.rare)]
        near, far = (np.square(pixels - colour).sum(axis=-1) / (2 * SPREAD**2) for colour in colours)
        return np.minimum(near, far + 1)


@lru_cache
def grounds() -> tuple[Ground, ...]:
    """The grounds as they are drawn, each in every light."""
    found = []
    for name, paint in STUFF.items():
        pictures = np.stack([paint(np.random.default_rng(k), 96) for k in range(8)])
        colour = np.median(pictures, axis=(0, 1, 2))
        grey = (pictures - colour).mean(axis=-1)
        usual, rare = np.quantile(grey, (0.01, 0.985)), np.quantile(grey, (0.0, 1.0))
        found += [Ground(name, float(light), colour, tuple(usual), tuple(rare)) for light in LIGHT]
    return tuple(found)


@lru_cache
def _ground_table() -> np.ndarray:
    """Distances of every cell of the colour cube to every ground: (grounds, cells)."""
    return np.stack([ground.distances(_cube()) for ground in grounds()]).astype(np.float32)


@lru_cache
def _ground_likelihoods() -> np.ndarray:
    """How well every cell of the colour cube fits every ground: (grounds, cells) in [0, 1]."""
    return np.exp(-2 * _ground_table())


def find_ground(codes: np.ndarray) -> tuple[Ground, np.ndarray]:
    """The ground that explains most pixels, and its distance from every cell of the colour cube.

    Args:
        codes: (H, W) cells of the pixels, see `codes`.
    """
    cells, times = np.unique(codes, return_counts=True)
    best = int((_ground_likelihoods()[:, cells] @ times).argmax())
    return grounds()[best], _ground_table()[best]


def evidence(thing: Thing, ground: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """How much pixels speak for each part of a thing and against all else: (parts, H, W) in [-MOST, MOST].

    It is a log ratio of Gaussians; a colour that neither the thing nor the ground has is as unlikely as one `MOST` away.

    Args:
        thing: the thing.
        ground: distance of the ground from every cell of the colour cube.
        codes: (H, W) cells of the pixels, see `codes`.
    """
    return (np.minimum(ground[codes], MOST) - part_distances(thing)[:, codes]).clip(-MOST, MOST)


@lru_cache(maxsize=1024)
def expected(thing: Thing, ground: Ground) -> np.ndarray:
    """Evidence of one flawless pixel of each part of a thing before a ground: (parts,)."""
    colours = np.stack([(part.darkest + part.brightest) / 2 for part in parts_of(thing)])
    return ground.distances(colours).clip(0.05, MOST)


def shrunk(image: Image.Image | np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) float in [0, 255], each pixel the mean of factor x factor."""
    pixels = np.asarray(image, dtype=np.float32)
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    return pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


def thing_named(name: str) -> Thing:
    """The thing with this noun."""
    return next(thing for thing in THINGS if thing.name == name)

"""Find the things in an image of the toy world by shape and colour: templates of what is drawn, matched greedily; no network.

Each noun has parts with colours of their own (`colours.py`). A pixel is evidence for a part and against the ground; a template says
where the parts of a thing lie (`templates.py`). What is found (`search.py`) is a thing if its outline is that of the noun as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seg4diff.data.toyworld.captions import Placed
from seg4diff.data.toyworld.scenes import RANDOM_SHARE, SIZES, lit_from_above
from seg4diff.errors import UserError
from seg4diff.tiny.colours import evidence, expected, part_distances, parts_of
from seg4diff.tiny.search import Match, Search
from seg4diff.tiny.templates import majority, shrink, template

STRUCTURE = 0.7
"""A thing counts where its pixels have at least this IoU with the drawn shape: a blob of the right colour has less."""
SMALLEST = 32
"""Pixels of the shorter side of the smallest image in which shapes can be told apart."""


@dataclass(frozen=True)
class Found:
    """A thing that was found.

    Attributes:
        placed: noun, brightness, size and centre, in the terms of the captions.
        fit: share of the evidence that a flawless thing would give, at most 1.
        structure: IoU of its pixels with the best-fitting drawn shape, in [0, 1].
    """

    placed: Placed
    fit: float
    structure: float


@dataclass(frozen=True)
class Findings:
    """What an image shows.

    Attributes:
        ground: noun of the background.
        ground_share: share of the pixels outside the things that look like it.
        things: the things, in the order in which they were found.
    """

    ground: str
    ground_share: float
    things: tuple[Found, ...]

    def named(self, name: str) -> list[Found]:
        """The things with this noun."""
        return [found for found in self.things if found.placed.name == name]


def find(image: Image.Image | np.ndarray) -> Findings:
    """Find ground and things in an image of the toy world.

    Args:
        image: RGB, a PIL image or (H, W, 3) uint8; things are 0.30 to 0.52 of its shorter side.

    Raises:
        UserError: the image is too small, or a side is odd.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < SMALLEST or pixels.shape[0] % 2 or pixels.shape[1] % 2:
        raise UserError(f"things are found in RGB images with even sides of at least {SMALLEST} pixels, found an array of {pixels.shape}.")
    search = Search(pixels)
    matches = search.all()
    things = [_describe(search, match, [other for other in matches if other is not match]) for match in matches]
    outside = search.free > 0
    share = float((search.ground_table[search.codes[outside]] < 1).mean()) if outside.any() else 0.0
    return Findings(search.ground.name, share, tuple(thing for thing in things if thing.structure >= STRUCTURE))


def _describe(search: Search, match: Match, others: Sequence[Match]) -> Found:
    covered = np.zeros_like(search.free, dtype=bool)
    for other in others:
        covered |= _silhouette(other, covered.shape)
    height, width = covered.shape
    centre = ((match.left + match.pose.size / 2) / width, (match.top + match.pose.size / 2) / height)
    size = (match.pose.size / min(height, width) - SIZES[0]) / (SIZES[1] - SIZES[0])
    placed = Placed(match.thing.name, _brightness(search, match, covered), float(np.clip(size, 0, 1)), centre)
    return Found(placed, match.fit, _structure(search, match, covered))


def _silhouette(match: Match, shape: tuple[int, int], of_parts: np.ndarray | None = None) -> np.ndarray:
    """Pixels of an image (H, W) that belong to a match, or to some of its parts (bool mask): bool."""
    layers = template(match.thing, match.pose)
    image, tile = match.window(shape)
    pixels = np.zeros(shape, dtype=bool)
    pixels[image] = layers[slice(None) if of_parts is None else of_parts].sum(axis=0)[tile] >= 0.5
    return pixels


def _structure(search: Search, match: Match, covered: np.ndarray) -> float:
    """IoU of the thing's pixels near the match with its silhouette; parts that look like the ground (white on snow) count for neither."""
    clear = expected(match.thing, search.ground) >= 1
    reach, (height, width) = round(0.2 * match.pose.size), covered.shape
    counted = np.zeros(covered.shape, dtype=bool)
    rows = slice(max(0, match.top - reach), min(height, match.top + match.pose.size + reach))
    columns = slice(max(0, match.left - reach), min(width, match.left + match.pose.size + reach))
    counted[rows, columns] = True
    counted &= ~covered
    own, level = evidence(match.thing, search.ground_table, search.codes), 0.5
    if clear.any():
        counted, own = counted & ~_silhouette(match, covered.shape, ~clear), own[clear]
    else:
        level = 0.0
    pixels, silhouette = majority(own.max(axis=0) > level) & counted, _silhouette(match, covered.shape) & counted
    union = (pixels | silhouette).sum()
    return float((pixels & silhouette).sum() / union) if union else 0.0


def _brightness(search: Search, match: Match, covered: np.ndarray) -> float:
    """Where the mean colour of the largest part that may be dark or bright lies between the two, in [0, 1]."""
    k = next(k for k, part in enumerate(parts_of(match.thing)) if (part.darkest != part.brightest).any())
    part, (image, tile) = parts_of(match.thing)[k], match.window(covered.shape)
    seen = ~covered[image] & (part_distances(match.thing)[k][search.codes[image]] < 1)
    layer = template(match.thing, match.pose)[k]
    cores = [(shrink(layer, reach)[tile] > 0.9) & seen for reach in (2, 1, 0)]  # away from seams, where there is enough of it
    inside = next((core for core in cores if core.sum() >= 20), cores[-1])
    if not inside.any():
        return 0.5
    light = lit_from_above(match.pose.size)[tile[0], None, None]
    colour = (search.full[image] / light)[inside].mean(axis=0)
    span = part.brightest - part.darkest
    level = float((colour - part.darkest) @ span / (span @ span))
    return float(np.clip((level - RANDOM_SHARE / 2) / (1 - RANDOM_SHARE), 0, 1))

"""Find the things in an image of the toy world by shape and colour: templates of what is drawn, matched greedily; no network.

Each noun has parts with colours of their own (`colours.py`). A pixel is evidence for a part and against the ground; a template says
where the parts of a thing lie. The template that explains most evidence is found first, its pixels are explained, and the next is
looked for. Templates are matched at half the resolution, and the best one is fitted at full resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from seg4diff.data.toyworld.captions import Placed
from seg4diff.data.toyworld.scenes import RANDOM_SHARE, SIZES, lit_from_above
from seg4diff.data.toyworld.things import THINGS, Thing
from seg4diff.tiny.colours import MOST, codes, evidence, find_ground, part_distances, parts_of, shrunk, thing_named
from seg4diff.tiny.templates import Pose, bank, grow, just_outside, majority, shrink, template

FIT = 0.5
"""A thing is found where a template explains at least this share of the evidence that a flawless one would give."""
STRUCTURE = 0.7
"""A thing counts where its pixels have at least this IoU with the drawn shape: a blob of the right colour has less."""
SEEN = 0.5
"""At least this share of a thing must not lie under others."""
OUTSIDE = 0.8
"""Weight of evidence for a thing just outside its template, against the evidence inside."""
_MARGIN = 6
"""Pixels, at half the resolution, around image and template: room for what lies just outside."""
_MOST_THINGS = 8


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


@dataclass(frozen=True)
class _Match:
    """A template at its best place: its score, fit, pose, and the top left corner of its tile."""

    score: float
    fit: float
    thing: Thing
    pose: Pose
    top: int
    left: int

    def touches(self, other: "_Match") -> bool:
        """Whether the tile of this match, at half the resolution, meets that of another at full resolution."""
        apart = (2 * self.top - other.top, 2 * self.left - other.left)
        return all(-2 * self.pose.size - 2 < distance < other.pose.size + 2 for distance in apart)

    def window(self, shape: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the tile that lie in an image of this shape: in the image, and in the tile."""
        spans = []
        for start, length in ((self.top, shape[0]), (self.left, shape[1])):
            first, last = max(0, start), min(length, start + self.pose.size)
            spans.append((slice(first, last), slice(first - start, last - start)))
        return tuple(zip(*spans, strict=True))


class _Search:
    """One image while its things are found."""

    def __init__(self, image: np.ndarray) -> None:
        self.full, half = shrunk(image, 1), shrunk(image, 2)
        self.codes, self.half_codes = codes(self.full), codes(half)
        self.ground, self.ground_table = find_ground(self.full)
        self.free = np.ones(self.full.shape[:2], dtype=np.float32)
        side = min(self.full.shape[:2])
        self.sizes = tuple(round(size / 2) for size in np.geomspace(SIZES[0] * side - 1, SIZES[1] * side + 1, 7))
        self.tables: dict[str, np.ndarray] = {}
        self.given_up: set[str] = set()
        self.matches: dict[str, _Match | None] = {}
        for thing in THINGS:
            table = evidence(thing, self.ground_table)
            smallest = template(thing, Pose(self.sizes[0], 0, False)).sum(axis=(1, 2)) @ self.expected(thing)
            if table[:, self.half_codes].max(axis=0).clip(min=0).sum() > FIT * SEEN * smallest:
                self.tables[thing.name] = table

    def expected(self, thing: Thing) -> np.ndarray:
        """Evidence of one flawless pixel of each part before this ground."""
        colours = np.stack([(part.darkest + part.brightest) / 2 for part in parts_of(thing)])
        return self.ground.distances(colours).clip(0.05, MOST)

    def best(self) -> _Match | None:
        """The match with the highest score among those that may fit."""
        for name in self.tables.keys() - self.given_up - self.matches.keys():
            self.matches[name] = self._best_of(thing_named(name))
        return max((match for match in self.matches.values() if match is not None), key=lambda match: match.score, default=None)

    def _best_of(self, thing: Thing) -> _Match | None:
        height, width = self.half_codes.shape
        free = self.free.reshape(height, 2, width, 2).mean(axis=(1, 3))
        own, expected = self.tables[thing.name][:, self.half_codes] * free, self.expected(thing)
        shape = (height + 2 * _MARGIN, width + 2 * _MARGIN)
        own_bank = bank(thing, shape, self.sizes)
        around = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
        spectra = np.fft.rfft2(np.pad(own, ((0, 0), *around)))
        beyond = np.fft.rfft2(np.pad(own.max(axis=0).clip(min=0), around))
        seen = np.fft.rfft2(np.pad(free, around))
        summed = (own_bank.parts * spectra).sum(axis=1) - OUTSIDE * own_bank.outside * beyond
        scores = np.fft.irfft2(summed, shape)
        weighted = (own_bank.parts * expected[:, None, None]).sum(axis=1)
        most = np.fft.irfft2(weighted * seen, shape)
        whole = (own_bank.areas * expected).sum(axis=1)[:, None, None]
        fits = scores / np.maximum(most, 1e-6)
        scores = np.where((fits >= 0.7 * FIT) & (most >= SEEN * whole), scores, -np.inf)
        for k, pose in enumerate(own_bank.poses):  # the tile lies in the image, give or take a pixel
            scores[k, : _MARGIN - 1], scores[k, :, : _MARGIN - 1] = -np.inf, -np.inf
            scores[k, _MARGIN + height - pose.size + 2 :], scores[k, :, _MARGIN + width - pose.size + 2 :] = -np.inf, -np.inf
        k, row, column = np.unravel_index(scores.argmax(), scores.shape)
        if not np.isfinite(scores[k, row, column]):
            return None
        return _Match(
            float(scores[k, row, column]), float(fits[k, row, column]), thing, own_bank.poses[k], int(row) - _MARGIN, int(column) - _MARGIN
        )

    def refine(self, match: _Match) -> _Match:
        """The best match near this one at full resolution."""
        top, left, size = 2 * match.top, 2 * match.left, 2 * match.pose.size
        border = 8
        rows = slice(max(0, top - border), top + size + border)
        columns = slice(max(0, left - border), left + size + border)
        free = self.free[rows, columns]
        own = self.tables[match.thing.name][:, self.codes[rows, columns]] * free
        beyond, expected = own.max(axis=0).clip(min=0), self.expected(match.thing)
        found = []
        for change, turn in product((-3, -1, 1, 3), (-7, 0, 7)):
            pose = Pose(size + change, match.pose.turn + turn, match.pose.mirrored)
            layers, reach = template(match.thing, pose), max(1, round(0.1 * pose.size))
            around, whole = just_outside(layers.sum(axis=0).clip(0, 1), reach), np.tensordot(expected, layers, 1)
            for down, right in product((-2, 0, 2), (-2, 0, 2)):
                row, column = top - rows.start + down - change // 2, left - columns.start + right - change // 2
                score = _overlap(layers, (row, column), own) - OUTSIDE * _overlap(around, (row - reach, column - reach), beyond)
                fit = score / max(_overlap(whole, (row, column), free), 1e-6)
                found.append(_Match(score, fit, match.thing, pose, row + rows.start, column + columns.start))
        return max(found, key=lambda match: match.score)

    def give_up(self, name: str) -> None:
        """Look for no more things with this noun."""
        self.given_up.add(name)
        del self.matches[name]

    def explain(self, match: _Match) -> None:
        """Take the pixels of a match out of what is looked at, with a seam of one pixel."""
        grown = grow(template(match.thing, match.pose).sum(axis=0), 1)
        wider = _Match(0, 0, match.thing, Pose(match.pose.size + 2, 0, False), match.top - 1, match.left - 1)
        image, tile = wider.window(self.free.shape)
        self.free[image] *= grown[tile] < 0.3
        touched = {name for name, other in self.matches.items() if other is not None and other.touches(match)}
        self.matches = {name: other for name, other in self.matches.items() if name not in touched | {match.thing.name}}


def _overlap(layers: np.ndarray, corner: tuple[int, int], values: np.ndarray) -> float:
    """Sum of layers (..., h, w) times values (..., H, W), where the layers' top left corner lies at `corner`."""
    (top, left), (height, width) = corner, layers.shape[-2:]
    first, last = (max(0, top), max(0, left)), (min(values.shape[-2], top + height), min(values.shape[-1], left + width))
    own = layers[..., first[0] - top : last[0] - top, first[1] - left : last[1] - left]
    return float((own * values[..., first[0] : last[0], first[1] : last[1]]).sum())


def find(image: Image.Image | np.ndarray) -> Findings:
    """Find ground and things in an image of the toy world.

    Args:
        image: RGB of any size with even sides, (H, W, 3) uint8 or a PIL image; things are 0.30 to 0.52 of its shorter side.
    """
    search = _Search(np.asarray(image))
    matches: list[_Match] = []
    while len(matches) < _MOST_THINGS and (match := search.best()) is not None:
        match = search.refine(match)
        if match.fit < FIT:
            search.give_up(match.thing.name)
            continue
        search.explain(match)
        matches.append(match)
    things = [_describe(search, match, [other for other in matches if other is not match]) for match in matches]
    outside = search.free > 0
    share = float((search.ground_table[search.codes[outside]] < 1).mean()) if outside.any() else 0.0
    return Findings(search.ground.name, share, tuple(thing for thing in things if thing.structure >= STRUCTURE))


def _describe(search: _Search, match: _Match, others: Sequence[_Match]) -> Found:
    shape = search.free.shape
    covered = np.zeros(shape, dtype=bool)
    for other in others:
        image, tile = other.window(shape)
        covered[image] |= template(other.thing, other.pose).sum(axis=0)[tile] >= 0.5
    layers = template(match.thing, match.pose)
    own = search.tables[match.thing.name][:, search.codes]
    image, tile = match.window(shape)
    expected = search.expected(match.thing)
    silhouette, hard = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    silhouette[image] = layers.sum(axis=0)[tile] >= 0.5
    hard[image] = (layers * (expected < 1)[:, None, None]).sum(axis=0)[tile] >= 0.5
    near = np.zeros(shape, dtype=bool)
    reach = round(0.2 * match.pose.size)
    near[
        max(0, match.top - reach) : match.top + match.pose.size + reach, max(0, match.left - reach) : match.left + match.pose.size + reach
    ] = True
    counted = near & ~covered & ~hard
    clear = own[expected >= 1].max(axis=0) > 0.5 if (expected >= 1).any() else own.max(axis=0) > 0
    pixels = majority(clear) & counted
    union = (pixels | (silhouette & counted)).sum()
    structure = float((pixels & silhouette).sum() / union) if union else 0.0
    side = min(shape)
    centre = ((match.left + match.pose.size / 2) / shape[1], (match.top + match.pose.size / 2) / shape[0])
    size = (match.pose.size / side - SIZES[0]) / (SIZES[1] - SIZES[0])
    brightness = _brightness(search, match, layers, covered)
    return Found(Placed(match.thing.name, brightness, float(np.clip(size, 0, 1)), centre), match.fit, structure)


def _brightness(search: _Search, match: _Match, layers: np.ndarray, covered: np.ndarray) -> float:
    """Where the mean colour of the largest part that may be dark or bright lies between the two, in [0, 1]."""
    k = next(k for k, part in enumerate(parts_of(match.thing)) if (part.darkest != part.brightest).any())
    part, (image, tile) = parts_of(match.thing)[k], match.window(covered.shape)
    seen = ~covered[image] & (part_distances(match.thing)[k][search.codes[image]] < 1)
    cores = [(shrink(layers[k], reach)[tile] > 0.9) & seen for reach in (2, 1, 0)]  # away from seams, where there is enough of it
    inside = next((core for core in cores if core.sum() >= 20), cores[-1])
    if not inside.any():
        return 0.5
    light = lit_from_above(match.pose.size)[tile[0], None, None]
    colour = (search.full[image] / light)[inside].mean(axis=0)
    span = part.brightest - part.darkest
    level = float((colour - part.darkest) @ span / (span @ span))
    return float(np.clip((level - RANDOM_SHARE / 2) / (1 - RANDOM_SHARE), 0, 1))

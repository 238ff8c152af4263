"""Search an image for things: the template that explains most evidence first, then the next in what is left.

Templates are matched at half the resolution, by correlation; the best one is fitted at full resolution.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from seg4diff.data.toyworld.scenes import SIZES
from seg4diff.data.toyworld.things import THINGS, Thing
from seg4diff.tiny.colours import MOST, codes, evidence, find_ground, parts_of, shrunk, thing_named
from seg4diff.tiny.templates import Pose, bank, grow, just_outside, template

FIT = 0.45
"""A thing is found where a template explains at least this share of the evidence that a flawless one would give."""
SEEN = 0.5
"""At least this share of a thing must not lie under others."""
OUTSIDE = 0.8
"""Weight of evidence for a thing just outside its template, against the evidence inside."""
_MOST_THINGS = 8
_MARGIN = 6
"""Pixels, at half the resolution, around image and template: room for what lies just outside."""


@dataclass(frozen=True)
class Match:
    """A template at its best place: its score, fit, pose, and the top left corner of its tile."""

    score: float
    fit: float
    thing: Thing
    pose: Pose
    top: int
    left: int

    def touches(self, other: "Match") -> bool:
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


class Search:
    """One image while its things are found."""

    def __init__(self, image: np.ndarray) -> None:
        self.full, half = shrunk(image, 1), shrunk(image, 2)
        self.codes, self.half_codes = codes(self.full), codes(half)
        self.ground, self.ground_table = find_ground(self.full)
        self.free: np.ndarray = np.ones(self.full.shape[:2], dtype=np.float32)
        side = min(self.full.shape[:2])
        self.sizes = tuple(round(size / 2) for size in np.geomspace(SIZES[0] * side - 1, SIZES[1] * side + 1, 7))
        self.tables: dict[str, np.ndarray] = {}
        self._given_up: set[str] = set()
        self._matches: dict[str, Match | None] = {}
        for thing in THINGS:
            table = evidence(thing, self.ground_table)
            smallest = template(thing, Pose(self.sizes[0], 0, False)).sum(axis=(1, 2)) @ self.expected(thing)
            if table[:, self.half_codes].max(axis=0).clip(min=0).sum() > FIT * SEEN * smallest:
                self.tables[thing.name] = table

    def expected(self, thing: Thing) -> np.ndarray:
        """Evidence of one flawless pixel of each part before this ground."""
        colours = np.stack([(part.darkest + part.brightest) / 2 for part in parts_of(thing)])
        return self.ground.distances(colours).clip(0.05, MOST)

    def all(self) -> list[Match]:
        """The matches, in the order in which they are found."""
        found: list[Match] = []
        while len(found) < _MOST_THINGS and (match := self._best()) is not None:
            match = self._refine(match)
            if match.fit < FIT:
                self._give_up(match.thing.name)
                continue
            self._explain(match)
            found.append(match)
        return found

    def _best(self) -> Match | None:
        """The match with the highest score among those that may fit."""
        for name in self.tables:
            if name not in self._given_up and name not in self._matches:
                self._matches[name] = self._best_of(thing_named(name))
        return max((match for match in self._matches.values() if match is not None), key=lambda match: match.score, default=None)

    def _best_of(self, thing: Thing) -> Match | None:
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
        best = tuple(int(place) for place in np.unravel_index(scores.argmax(), scores.shape))
        if not np.isfinite(scores[best]):
            return None
        return Match(float(scores[best]), float(fits[best]), thing, own_bank.poses[best[0]], best[1] - _MARGIN, best[2] - _MARGIN)

    def _refine(self, match: Match) -> Match:
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
                found.append(Match(score, fit, match.thing, pose, row + rows.start, column + columns.start))
        return max(found, key=lambda match: match.score)

    def _give_up(self, name: str) -> None:
        """Look for no more things with this noun."""
        self._given_up.add(name)
        del self._matches[name]

    def _explain(self, match: Match) -> None:
        """Take the pixels of a match out of what is looked at, with a seam of one pixel."""
        grown = grow(template(match.thing, match.pose).sum(axis=0), 1)
        wider = Match(0, 0, match.thing, Pose(match.pose.size + 2, 0, False), match.top - 1, match.left - 1)
        image, tile = wider.window(self.free.shape)
        self.free[image] *= grown[tile] < 0.3
        touched = {name for name, other in self._matches.items() if other is not None and other.touches(match)}
        self._matches = {name: other for name, other in self._matches.items() if name not in touched | {match.thing.name}}


def _overlap(layers: np.ndarray, corner: tuple[int, int], values: np.ndarray) -> float:
    """Sum of layers (..., h, w) times values (..., H, W), where the layers' top left corner lies at `corner`."""
    (top, left), (height, width) = corner, layers.shape[-2:]
    first, last = (max(0, top), max(0, left)), (min(values.shape[-2], top + height), min(values.shape[-1], left + width))
    own = layers[..., first[0] - top : last[0] - top, first[1] - left : last[1] - left]
    return float((own * values[..., first[0] : last[0], first[1] : last[1]]).sum())

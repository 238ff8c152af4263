"""Search an image for things: the template that explains most evidence first, then the next in what is left.

Templates are matched at half the resolution, by correlation; the best one is fitted at full resolution.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import irfft2, rfft2

from seg4diff.data.toyworld.scenes import SIZES
from seg4diff.data.toyworld.things import THINGS, Thing
from seg4diff.tiny.colours import codes, evidence, expected, find_ground, shrunk, thing_named
from seg4diff.tiny.templates import Pose, bank, framed, grow, template

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
        self.full = shrunk(image, 1)
        self.codes = codes(self.full)
        self.ground, self.ground_table = find_ground(self.codes)
        self.free: np.ndarray = np.ones(self.full.shape[:2], dtype=np.float32)
        side = min(self.full.shape[:2])
        self.sizes = tuple(round(size / 2) for size in np.geomspace(SIZES[0] * side - 1, SIZES[1] * side + 1, 7))
        half_codes = codes(shrunk(image, 2))
        self._evidence: dict[str, np.ndarray] = {}
        self._given_up: set[str] = set()
        self._matches: dict[str, Match | None] = {}
        for thing in THINGS:
            own = evidence(thing, self.ground_table, half_codes)
            smallest = template(thing, Pose(self.sizes[0], 0, False)).sum(axis=(1, 2)) @ expected(thing, self.ground)
            if own.max(axis=0).clip(min=0).sum() > FIT * SEEN * smallest:
                self._evidence[thing.name] = own

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
        for name in self._evidence:
            if name not in self._given_up and name not in self._matches:
                self._matches[name] = self._best_of(thing_named(name))
        return max((match for match in self._matches.values() if match is not None), key=lambda match: match.score, default=None)

    def _best_of(self, thing: Thing) -> Match | None:
        own, most_of = self._evidence[thing.name], expected(thing, self.ground)
        height, width = own.shape[1:]
        free = self.free.reshape(height, 2, width, 2).mean(axis=(1, 3))
        shape = (height + 2 * _MARGIN, width + 2 * _MARGIN)
        own_bank = bank(thing, shape, self.sizes)
        spectra = rfft2(np.pad(_compared(own * free, free), ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))))
        # The tile lies in the image, give or take a pixel: places are counted from -1.
        places = (..., *[slice(_MARGIN - 1, _MARGIN + length - self.sizes[0] + 2) for length in (height, width)])
        scores = irfft2((own_bank.layers * spectra[:-1]).sum(axis=1), shape)[places]
        for own_scores, pose in zip(scores, own_bank.poses, strict=True):
            own_scores[height - pose.size + 3 :], own_scores[:, width - pose.size + 3 :] = -np.inf, -np.inf
        whole = own_bank.areas @ most_of
        able = np.flatnonzero(scores.max(axis=(1, 2)) >= 0.7 * FIT * SEEN * whole)
        if not len(able):
            return None
        weighted = (own_bank.layers[able, :-1] * most_of[:, None, None].astype(np.float32)).sum(axis=1)
        scores, most = scores[able], irfft2(weighted * spectra[-1], shape)[places]
        fits = scores / np.maximum(most, 1e-6)
        scores = np.where((fits >= 0.7 * FIT) & (most >= SEEN * whole[able, None, None]), scores, -np.inf)
        best = np.unravel_index(scores.argmax(), scores.shape)
        if not np.isfinite(scores[best]):
            return None
        which, top, left = (int(place) for place in best)
        return Match(float(scores[best]), float(fits[best]), thing, own_bank.poses[able[which]], top - 1, left - 1)

    def _refine(self, match: Match) -> Match:
        """The best match near this one at full resolution."""
        border, thing, most_of = 8, match.thing, expected(match.thing, self.ground)
        size, top, left = 2 * match.pose.size, 2 * match.top, 2 * match.left
        image, tile = Match(0, 0, thing, Pose(size + 2 * border, 0, False), top - border, left - border).window(self.free.shape)
        free, room = self.free[image], Pose(size, 0, False).reach
        values = np.zeros((len(most_of) + 2, *[size + 2 * (border + room)] * 2), dtype=np.float32)
        values[:, room:-room, room:-room][:, *tile] = _compared(evidence(thing, self.ground_table, self.codes[image]) * free, free)
        found = []
        for change, turn in product((-3, -1, 1, 3), (-7, 0, 7)):
            pose = Pose(size + change, match.pose.turn + turn, match.pose.mirrored)
            layers, shift = framed(thing, pose), -2 - change // 2
            places = slice(border + room + shift - pose.reach, border + room + shift - pose.reach + 5, 2)
            windows = sliding_window_view(values, layers.shape[1:], axis=(1, 2))[:, places, places]
            scores = np.tensordot(windows[:-1], layers, ((0, 3, 4), (0, 1, 2)))
            best = down, right = divmod(int(scores.argmax()), 3)
            most = np.tensordot(windows[-1][best], np.tensordot(most_of, layers[:-1], 1), 2)
            fit = float(scores[best]) / max(float(most), 1e-6)
            found.append(Match(float(scores[best]), fit, thing, pose, top + shift + 2 * down, left + shift + 2 * right))
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


def _compared(own: np.ndarray, free: np.ndarray) -> np.ndarray:
    """What a template is compared with: evidence for its parts, and against it just outside; and what is free: (parts + 2, H, W)."""
    return np.concatenate([own, -OUTSIDE * own.max(axis=0, keepdims=True).clip(min=0), free[None]])

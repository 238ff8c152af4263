"""Templates: where the parts of a thing lie in its tile, at any size, turn and mirrored, taken from the code that draws it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.fft import rfft2
from scipy.ndimage import maximum_filter, minimum_filter

from seg4diff.data.toyworld.things import Thing
from seg4diff.tiny.colours import parts_of


@dataclass(frozen=True)
class Pose:
    """How a template lies: side of its tile in pixels, degrees, mirrored or not."""

    size: int
    turn: int
    mirrored: bool

    @property
    def reach(self) -> int:
        """Pixels around the tile in which nothing that looks like the thing should lie."""
        return max(1, round(0.1 * self.size))


def template(thing: Thing, pose: Pose) -> np.ndarray:
    """Share of each pixel that each part covers: (parts, size, size) in [0, 1]."""
    tile = slice(pose.reach, -pose.reach)
    return framed(thing, pose)[:-1, tile, tile]


@lru_cache(maxsize=8192)
def framed(thing: Thing, pose: Pose) -> np.ndarray:
    """The template with `pose.reach` pixels around it, and as the last layer what lies just outside: (parts + 1, side, side) in [0, 1]."""
    layers = []
    for layer in _turned(thing, pose.turn):
        if pose.mirrored:
            layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        layers.append(np.asarray(layer.resize((pose.size, pose.size), Image.Resampling.BOX), dtype=np.float32) / 255)
    tile = np.stack(layers)
    around = ((pose.reach, pose.reach), (pose.reach, pose.reach))
    silhouette = tile.sum(axis=0).clip(0, 1)
    outside = (grow(silhouette, pose.reach) - np.pad(silhouette, around)).clip(0, 1)
    return np.concatenate([np.pad(tile, ((0, 0), *around)), outside[None]])


@lru_cache(maxsize=512)
def _turned(thing: Thing, turn: int) -> list[Image.Image]:
    """The painted tile of each part, turned by some degrees."""
    layers = [Image.fromarray(part.mask.astype(np.uint8) * 255) for part in parts_of(thing)]
    return [layer.rotate(turn, resample=Image.Resampling.BILINEAR) for layer in layers]


def grow(mask: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` rows and columns: (side, side) -> (side + 2 reach, side + 2 reach)."""
    return maximum_filter(np.pad(mask, reach), 2 * reach + 1, mode="constant")


def shrink(mask: np.ndarray, reach: int) -> np.ndarray:
    """The smallest value within `reach` rows and columns; 0 lies around the mask (side, side) in [0, 1]."""
    return minimum_filter(mask, 2 * reach + 1, mode="constant")


def majority(mask: np.ndarray) -> np.ndarray:
    """What most of the 3 x 3 pixels around each pixel say: (H, W) bool."""
    padded = np.pad(mask, 1, mode="edge").astype(np.int64)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 5


@dataclass(frozen=True)
class Bank:
    """The templates of a thing at half the resolution, as spectra.

    Attributes:
        poses: K poses.
        layers: (K, parts + 1, H, W') spectra of the parts and of what lies just outside.
        areas: (K, parts) pixels of each part.
    """

    poses: tuple[Pose, ...]
    layers: np.ndarray
    areas: np.ndarray


@lru_cache(maxsize=64)
def bank(thing: Thing, shape: tuple[int, int], sizes: tuple[int, ...]) -> Bank:
    """The templates of a thing of these sizes, three turns each and mirrored where that differs, for images of this shape."""
    sides = [template(thing, Pose(sizes[-1], 0, mirror)) for mirror in (False, True)]
    mirrors = (False, True) if np.abs(sides[0] - sides[1]).sum(axis=0).mean() > 0.04 else (False,)
    poses = tuple(Pose(size, turn, mirror) for size in sizes for turn in (-14, 0, 14) for mirror in mirrors)
    layers = np.zeros((len(poses), len(sides[0]) + 1, *shape), dtype=np.float32)
    for own, pose in zip(layers, poses, strict=True):
        own[:, : pose.size + 2 * pose.reach, : pose.size + 2 * pose.reach] = framed(thing, pose)
        # Tiles start at one corner, whatever lies around them, so that a place means the same for all of them.
        own[:] = np.roll(own, (-pose.reach, -pose.reach), axis=(1, 2))
    areas = np.stack([template(thing, pose).sum(axis=(1, 2)) for pose in poses])
    return Bank(poses, rfft2(layers).conj(), areas)

"""Templates: where the parts of a thing lie in its tile, at any size, turn and mirrored, taken from the code that draws it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from seg4diff.data.toyworld.things import Thing
from seg4diff.tiny.colours import parts_of


@dataclass(frozen=True)
class Pose:
    """How a template lies: side of its tile in pixels, degrees, mirrored or not."""

    size: int
    turn: int
    mirrored: bool


@lru_cache(maxsize=8192)
def template(thing: Thing, pose: Pose) -> np.ndarray:
    """Share of each pixel that each part covers: (parts, size, size) in [0, 1]."""
    layers = []
    for part in parts_of(thing):
        layer = Image.fromarray(part.mask.astype(np.uint8) * 255).rotate(pose.turn, resample=Image.Resampling.BILINEAR)
        if pose.mirrored:
            layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        layers.append(np.asarray(layer.resize((pose.size, pose.size), Image.Resampling.BOX), dtype=np.float32) / 255)
    return np.stack(layers)


def grow(mask: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` rows and columns: (side, side) -> (side + 2 reach, side + 2 reach)."""
    grown = np.pad(mask, reach)
    for axis in (0, 1):
        grown = np.max([np.roll(grown, shift, axis) for shift in range(-reach, reach + 1)], axis=0)
    return grown


def shrink(mask: np.ndarray, reach: int) -> np.ndarray:
    """The smallest value within `reach` rows and columns; 0 lies around the mask (side, side) in [0, 1]."""
    inner = slice(reach, reach + mask.shape[0])
    return 1 - grow(1 - np.pad(mask, reach), reach)[reach : -reach or None, reach : -reach or None][inner, inner]


def majority(mask: np.ndarray) -> np.ndarray:
    """What most of the 3 x 3 pixels around each pixel say: (H, W) bool."""
    padded = np.pad(mask, 1, mode="edge").astype(np.int64)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 5


def just_outside(silhouette: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within `reach` of a silhouette (side, side) and not of it: (side + 2 reach, side + 2 reach) in [0, 1]."""
    return (grow(silhouette, reach) - np.pad(silhouette, reach)).clip(0, 1)


@dataclass(frozen=True)
class Bank:
    """The templates of a thing at half the resolution, as spectra.

    Attributes:
        poses: K poses.
        parts: (K, parts, H, W') spectra of the parts.
        outside: (K, H, W') spectra of what lies just outside.
        areas: (K, parts) pixels of each part.
    """

    poses: tuple[Pose, ...]
    parts: np.ndarray
    outside: np.ndarray
    areas: np.ndarray


@lru_cache(maxsize=64)
def bank(thing: Thing, shape: tuple[int, int], sizes: tuple[int, ...]) -> Bank:
    """The templates of a thing of these sizes, three turns each and mirrored where that differs, for images of this shape."""
    sides = [template(thing, Pose(sizes[-1], 0, mirror)) for mirror in (False, True)]
    mirrors = (False, True) if np.abs(sides[0] - sides[1]).sum(axis=0).mean() > 0.04 else (False,)
    poses = tuple(Pose(size, turn, mirror) for size in sizes for turn in (-14, 0, 14) for mirror in mirrors)
    parts, outside, areas = [], [], []
    for pose in poses:
        layers, reach = template(thing, pose), max(1, round(0.1 * pose.size))
        around = np.zeros((1, *shape), dtype=np.float32)
        around[0, : pose.size + 2 * reach, : pose.size + 2 * reach] = just_outside(layers.sum(axis=0).clip(0, 1), reach)
        inside = np.zeros((len(layers), *shape), dtype=np.float32)
        inside[:, reach : reach + pose.size, reach : reach + pose.size] = layers
        # Tiles start at one corner, whatever lies around them, so that a place means the same for all of them.
        spectra = np.fft.rfft2(np.roll(np.concatenate([inside, around]), (-reach, -reach), axis=(1, 2))).conj().astype(np.complex64)
        parts.append(spectra[:-1])
        outside.append(spectra[-1])
        areas.append(layers.sum(axis=(1, 2)))
    return Bank(poses, np.stack(parts), np.stack(outside), np.stack(areas))

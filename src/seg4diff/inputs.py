"""Inputs of `Model`: pictures of any kind, words, a size."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from seg4diff.data.decoding import to_rgb
from seg4diff.data.geometry import GEOMETRIES, Geometry
from seg4diff.data.reading import read_image
from seg4diff.data.sample import IGNORE, Vocabulary, image_to_tensor, tensor_to_image
from seg4diff.errors import UserError
from seg4diff.finite import require_finite
from seg4diff.presets import Preset
from seg4diff.results import Segmentation, WordMaps
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.presence import Calibration, Presence
from seg4diff.segmentation.readout import Readout, minmax

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A file; a PIL image of any mode; (H, W) or (H, W, 3) uint8; (3, H, W) float in [-1, 1].

A tensor in [0, 1] cannot be told from one of a bright picture in [-1, 1]: scale it with `2 * tensor - 1`.
"""
ROUNDING = 0.01
"""How far the values of a tensor may lie outside of [-1, 1], where they are cut off."""


class CanvasPicture:
    """A picture on the canvas that the model sees. Raises UserError for another geometry, or a picture that cannot be read."""

    def __init__(self, source: Picture, canvas: tuple[int, int], geometry: Geometry) -> None:
        if geometry not in GEOMETRIES:
            raise UserError(f"`geometry` must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
        self.picture, self.stem = _to_picture(source)
        size = (self.picture.height, self.picture.width)
        self.shown, window = GEOMETRIES[geometry](size, canvas)
        self.image = window.paste(image_to_tensor(self.picture.crop(self.shown.corners), window.size), canvas, 0.0)
        self.frame, self._size = Frame(canvas, window, self.shown.size), size

    def of_words(
        self, names: Sequence[str], maps: Tensor, readout: Readout, competing: Sequence[int] | None = None, unlabelled: int | None = None
    ) -> Segmentation:
        """The result from the maps of words.

        Args:
            names: the words.
            maps: (words, h, w) on the token grid.
            readout: the policy by which maps become labels.
            competing: positions of the words that labels are made of; None = all.
            unlabelled: label where no map reaches the level of the readout; None = every pixel has a word.
        """
        chosen = list(range(len(names)) if competing is None else competing)
        picture = (image_to_tensor(self.picture.crop(self.shown.corners), None) / 2 + 0.5).to(maps.device)
        return self.result(names, readout.segment(maps[chosen], chosen, self.frame, unlabelled, picture), minmax(maps, self.frame))

    def result(self, names: Sequence[str], labels: Tensor, maps: Tensor) -> Segmentation:
        """The result from labels of the shown part and maps on the token grid."""
        whole = self.shown.paste(labels.cpu(), self._size, IGNORE).numpy().astype(np.uint8)
        words = WordMaps(names if len(maps) else (), maps, self.frame, self.shown, self._size)
        return Segmentation(self.picture, tuple(names), whole, words, self.shown, self.stem)


def check_use(words: Any, *, threshold: float | None, background: float | None, clip: bool, chosen: Sequence[Any]) -> None:
    """Raises UserError for an argument of `Model.segment` that is of no use with or without words.

    Args:
        words: see `Model.segment`.
        threshold: see there.
        background: see there.
        clip: see there.
        chosen: its reader, presence and refinement.
    """
    if threshold is not None and words is not None:
        raise UserError("`threshold` is for regions without words, and words are given: leave one of them out.")
    if background is not None and words is None:
        raise UserError("`background` is for the maps of words, and there are none: give words, or leave it out.")
    if words is None and tuple(chosen) != ("expert", "none", "none"):
        raise UserError("`reader`, `presence` and `refine` are for the maps of words, and there are none: give words, or leave them out.")
    if words is None and clip:
        raise UserError("a clip is segmented by words, and there are none: give words.")


def words_of_each(words: Any, pictures: int) -> list[Sequence[str]]:
    """The words of each picture, checked; so many pictures there are."""
    if not pictures:
        raise UserError("`pictures` is an empty list: give at least one picture.")
    if words is None:
        return [()] * pictures
    asked = [words] if isinstance(words, str) else list(words)
    if not asked or all(isinstance(word, str) for word in asked):
        asked = [asked] * pictures
    if len(asked) != pictures:
        raise UserError(f"there are {pictures} pictures and {len(asked)} lists of words: give one list for all, or one for each.")
    return [check_words(own) for own in asked]


def to_size(size: Any) -> tuple[int, int]:
    """(height, width) from both, or from one number for a square."""
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UserError(f"`image_size` must be (height, width) in pixels, or one number for a square, found {size!r}.")
    return pair


def to_presence(presence: str | Path | Presence, preset: Preset, read: Sequence[dict[str, str]], clip: bool = False) -> Presence:
    """A presence, the name of one, or a calibration or its file, which must be of the very maps that are read.

    Args:
        presence: see `Model.segment`.
        preset: knows the names.
        read: of each picture, what its maps depend on, see `Calibration`.
        clip: see `Model.segment`.
    """
    if presence in ("none", "words"):
        return preset.part("presence", presence)
    found: Any = Calibration.load(Path(presence)) if isinstance(presence, str | Path) else presence
    if isinstance(found, Calibration):
        if clip:
            raise UserError("a calibration is of single pictures, and the frames of a clip share their attention: leave `presence` out.")
        for about in read:
            found.check(about)
    return preset.part("presence", found)


def check_words(words: Sequence[str], parameter: str = "words") -> Sequence[str]:
    """The words, each once and none of them empty.

    Args:
        words: the words.
        parameter: the one that holds them, for errors.

    Raises:
        UserError: one is empty or given twice, or there is none.
    """
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"`{parameter}` must be a list of words, none of them empty, found {words!r}: write them as in ['cat', 'dog'].")
    return Vocabulary(tuple(" ".join(word.split()) for word in words)).names


def _to_picture(source: Picture) -> tuple[Image.Image, str]:
    """An upright picture of 8-bit RGB, and what to call it."""
    if isinstance(source, str | Path):
        return read_image(Path(source), str(source), "give another one"), Path(source).stem
    if isinstance(source, Image.Image):
        return to_rgb(copy.copy(source)), "picture"
    if isinstance(source, Tensor) and source.dim() == 3 and len(source) == 3 and source.is_floating_point() and source.numel():
        require_finite(source, "the values of the picture")
        low, high = source.min().item(), source.max().item()
        if max(-low, high) > 1 + ROUNDING:
            raise UserError(f"a tensor must hold a picture in [-1, 1], found values from {low:g} to {high:g}: scale them.")
        return tensor_to_image(source), "picture"
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.size and source.shape[2:] in ((), (3,)) and source.ndim > 1:
        return to_rgb(Image.fromarray(source)), "picture"
    found = f"{source.dtype} {tuple(source.shape)}" if isinstance(source, np.ndarray | Tensor) else type(source).__name__
    raise UserError(f"a picture must be a file, a PIL image, a uint8 array (H, W, 3) or a tensor (3, H, W) in [-1, 1], found {found}.")

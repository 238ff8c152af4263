"""How an image of any shape meets a canvas of one size, and the way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Geometry = Literal["stretch", "crop", "letterbox"]
Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels.

    Attributes:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        return self.height, self.width

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow counts."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def cut(self, maps: Tensor) -> Tensor:
        """The part of (..., H, W) that lies in the window: (..., height, width)."""
        left, top, right, bottom = self.corners
        return maps[..., top:bottom, left:right]

    def paste(self, part: Tensor, canvas: Size, value: float) -> Tensor:
        """Undo `cut`: (..., height, width) -> (..., H, W), `value` outside the window."""
        if canvas == self.size:
            return part
        whole = part.new_full((*part.shape[:-2], *canvas), value)
        self.cut(whole).copy_(part)
        return whole


def size_of(maps: Tensor) -> Size:
    """(H, W) of maps or masks (..., H, W)."""
    return maps.shape[-2], maps.shape[-1]


def whole(size: Size) -> Window:
    """The window that is all of a canvas."""
    return Window(0, 0, *size)


def _centred(size: Size, around: Size) -> Window:
    return Window((around[0] - size[0]) // 2, (around[1] - size[1]) // 2, *size)


def scaled(size: Size, factor: float) -> Size:
    """The size times a factor, at least one pixel each."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _stretch(image: Size, canvas: Size) -> tuple[Window, Window]:
    return whole(image), whole(canvas)


def _crop(image: Size, canvas: Size) -> tuple[Window, Window]:
    factor = min(image[0] / canvas[0], image[1] / canvas[1])
    return _centred(scaled(canvas, factor), image), whole(canvas)


def _letterbox(image: Size, canvas: Size) -> tuple[Window, Window]:
    factor = min(canvas[0] / image[0], canvas[1] / image[1])
    return whole(image), _centred(scaled(image, factor), canvas)


GEOMETRIES: dict[Geometry, Callable[[Size, Size], tuple[Window, Window]]] = {
    "stretch": _stretch,
    "crop": _crop,
    "letterbox": _letterbox,
}
"""(size of the image, size of the canvas) -> the part of the image that is used, the part of the canvas that it fills.

stretch: all of the image over all of the canvas, whatever its shape (the release).
crop: the largest centred part with the shape of the canvas (the paper).
letterbox: all of the image in its own shape; what is left of the canvas is padding.
"""

"""Where the pixels of a mask lie on the canvas that the model saw: maps on the token grid to pixels, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.functional import interpolate as resize

from seg4diff.data.geometry import Size, Window, size_of
from seg4diff.data.sample import Batch


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of (classes, h, w) to (classes, H, W); there may be no class."""
    if not len(maps):
        return maps.new_zeros(0, *size)
    return resize(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class Frame:
    """A mask and the part of a canvas that it covers.

    Attributes:
        canvas: size of the image that the model saw; maps on the token grid cover all of it.
        window: the part of the canvas that the mask covers; the rest is padding.
        size: size of the mask.
    """

    canvas: Size
    window: Window
    size: Size

    @property
    def is_whole(self) -> bool:
        """Whether there is no padding."""
        return self.window.size == self.canvas

    def upsample(self, maps: Tensor) -> Tensor:
        """Read maps (C, h, w) of the canvas at the pixels of the mask: (C, H, W), bilinear.

        One interpolation at the place where each pixel of the mask lies on the token grid; nothing as large as the canvas is made, and
        tokens that see padding alone have no part in it. Without padding this is `upsample`. Autocast, which would round both matrix
        products to 16 bit, is off.
        """
        if self.is_whole:
            return upsample(maps, self.size)
        rows = _weights(maps.shape[-2], self.canvas[0], self.window.top, self.window.height, self.size[0])
        columns = _weights(maps.shape[-1], self.canvas[1], self.window.left, self.window.width, self.size[1])
        with torch.autocast(maps.device.type, enabled=False):
            return rows.to(maps) @ maps @ columns.to(maps).T

    def picture(self, image: Tensor) -> Tensor:
        """What the mask is of, (3, H, W) in [0, 1], from the image (3, height, width) in [-1, 1] that fills the canvas."""
        return upsample(self.window.cut(image), self.size).clamp(-1, 1) / 2 + 0.5

    def tokens(self, maps: Tensor) -> Tensor:
        """The part of (..., h, w) whose tokens see some of the window."""
        rows = _seen(maps.shape[-2], self.canvas[0], self.window.top, self.window.height)
        columns = _seen(maps.shape[-1], self.canvas[1], self.window.left, self.window.width)
        return maps[..., rows, columns]

    def average(self, masks: Tensor, grid: Size) -> Tensor:
        """Mean of masks (C, H, W) over the cells of the token grid, 0 where they do not reach: (C, h, w)."""
        if not self.is_whole:
            masks = self.window.paste(adaptive_avg_pool2d(masks, self.window.size), self.canvas, 0)
        return adaptive_avg_pool2d(masks, grid)


def frames(batch: Batch) -> list[Frame]:
    """The frame of each image of a batch."""
    canvas = size_of(batch.images)
    return [Frame(canvas, window, size_of(mask)) for window, mask in zip(batch.windows, batch.masks, strict=True)]


def _seen(tokens: int, canvas: int, start: int, length: int) -> slice:
    """The tokens of one axis that see some of the window; arguments as in `_weights`."""
    return slice(start * tokens // canvas, -(-(start + length) * tokens // canvas))


def _weights(tokens: int, canvas: int, start: int, length: int, pixels: int) -> Tensor:
    """Share of each token in each pixel along one axis, (pixels, tokens) in float64.

    Linear between the centres of the tokens that see the window, constant beyond the first and the last of them.

    Args:
        tokens: tokens along the canvas.
        canvas: its length.
        start: where the window starts on it.
        length: length of the window.
        pixels: pixels of the mask along the window.
    """
    seen = _seen(tokens, canvas, start, length)
    centres = start + (torch.arange(pixels, dtype=torch.float64) + 0.5) * length / pixels
    places = (centres * tokens / canvas - 0.5).clamp(seen.start, seen.stop - 1)
    return (1 - (places[:, None] - torch.arange(tokens)).abs()).clamp_min(0)

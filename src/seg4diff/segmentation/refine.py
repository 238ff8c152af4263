"""Class maps refined at the pixels of the picture: after upsampling, before the argmax. No protocol of the paper has this step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from seg4diff.errors import UserError, above_zero, at_least

ROWS = 16
"""Rows that are averaged at a time: few enough that their weights stay in the processor's cache for all classes."""
TILE = 1024
"""Longest side in pixels that is refined at once; what is larger is cut into tiles, with the same result."""
LARGE = 512
"""Longest side in pixels at which the guided filter takes every pixel."""


class Refiner(Protocol):
    """Takes class maps (C, H, W) and the picture (3, H, W) in [0, 1] that they belong to; returns class maps (C, H, W).

    Which class is largest at a pixel must not depend on the unit of the maps: c * maps + d, c > 0, gives the same labels.
    """

    def __call__(self, maps: Tensor, picture: Tensor) -> Tensor: ...


class Unrefined:
    """Maps as they are (the paper)."""

    def __call__(self, maps: Tensor, picture: Tensor) -> Tensor:
        """The same maps."""
        return maps


class PixelAdaptive:
    """Pixel-adaptive mask refinement, PAMR (Araslanov & Roth 2020, "Single-Stage Semantic Segmentation from Image Labels", section 3.3).

    Class maps become probabilities by a softmax over the classes. Then each pixel becomes, again and again, the mean of its neighbours,
    weighted by how similar their colours are: softmax over the neighbours j of -mean_c |I_i - I_j| / (0.1 std_i), where std_i is the
    standard deviation of the channel c over the pixel and its neighbours.

    Args:
        iterations: how often the mean is taken.
        dilations: distances in pixels of the eight neighbours of a pixel; there are eight for each distance.
        temperature: of the softmax over the classes, for maps whose lowest value is 0 and whose highest is 1.
    """

    def __init__(self, *, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8), temperature: float = 0.2) -> None:
        at_least(0, iterations=iterations)
        above_zero(temperature=temperature)
        if not dilations or min(dilations) < 1:
            raise UserError(f"`dilations` must be distances of at least 1 pixel, found {list(dilations)}.")
        self._iterations, self._temperature, self._reach = iterations, temperature, max(dilations)
        steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        self._offsets = [(dy * far, dx * far) for far in dilations for dy, dx in steps]

    @torch.no_grad()
    def __call__(self, maps: Tensor, picture: Tensor) -> Tensor:
        """Refine: probabilities (C, H, W) in [0, 1]."""
        if not maps.numel():
            return maps
        low, high = maps.amin(), maps.amax()
        refined = ((maps.float() - low) / ((high - low).clamp_min(1e-12) * self._temperature)).softmax(dim=0)
        return by_tiles(self._iterate, refined, picture.float(), self._iterations * self._reach)

    def _iterate(self, maps: Tensor, picture: Tensor) -> Tensor:
        weights = self.affinity(picture)
        for _ in range(self._iterations):
            maps = self._mean(maps, weights)
        return maps

    def affinity(self, picture: Tensor) -> Tensor:
        """Weight of each neighbour of each pixel, (neighbours, H, W) with sums of 1 over the neighbours."""
        around, total, squares = self._pad(picture), torch.zeros_like(picture), torch.zeros_like(picture)
        for offset in self._offsets:
            difference = self._shifted(around, offset, 0, picture.shape[1]) - picture  # sums of the colours would lose a faint texture
            total, squares = total + difference, squares.addcmul(difference, difference)
        count = len(self._offsets) + 1
        variance = (squares - total.square() / count) / (count - 1)
        spread = 0.1 * variance.clamp_min(0).sqrt() + 1e-8
        distances = [
            ((self._shifted(around, offset, 0, picture.shape[1]) - picture).abs() / spread).mean(dim=0) for offset in self._offsets
        ]
        return torch.stack(distances).neg_().softmax(dim=0)

    def _mean(self, maps: Tensor, weights: Tensor) -> Tensor:
        around, result = self._pad(maps), torch.zeros_like(maps)
        for top in range(0, maps.shape[1], ROWS):
            part = result[:, top : top + ROWS]
            for weight, offset in zip(weights, self._offsets, strict=True):
                part.addcmul_(weight[top : top + ROWS], self._shifted(around, offset, top, part.shape[1]))
        return result

    def _pad(self, maps: Tensor) -> Tensor:
        return pad(maps[None], [self._reach] * 4, mode="replicate")[0]

    def _shifted(self, around: Tensor, offset: tuple[int, int], top: int, height: int) -> Tensor:
        """Rows of the neighbours at an offset, from padded maps."""
        row, column = self._reach + offset[0] + top, self._reach + offset[1]
        return around[:, row : row + height, column : column + around.shape[2] - 2 * self._reach]


class Guided:
    """Guided filter (He et al. 2013) of kornia, with the colours of the picture as guidance.

    Args:
        radius: of the window in pixels.
        eps: squared standard deviation of colours, in [0, 1], below which a change is no edge.
        subsample: a picture with a side above 512 pixels is filtered by coefficients that are found at every `subsample`-th pixel of each
            side (fast guided filter, He & Sun 2015); 1, 2, 4 or 8, and a divisor of the radius.
    """

    def __init__(self, *, radius: int = 8, eps: float = 1e-3, subsample: int = 2) -> None:
        at_least(1, radius=radius)
        above_zero(eps=eps)
        if subsample not in (1, 2, 4, 8):
            raise UserError(f"`subsample` must be 1, 2, 4 or 8, found {subsample}.")
        if radius % subsample:  # or else the window of the chosen pixels is not centred
            raise UserError(f"`radius` must be a multiple of `subsample`, found {radius} and {subsample}.")
        try:
            from kornia.filters import guided_blur
        except ImportError as error:
            raise UserError("the guided filter needs kornia, which is not installed: pip install 'seg4diff[refine]'.") from error
        self._filter, self._size, self._eps, self._subsample = guided_blur, 2 * radius + 1, eps, subsample

    @torch.no_grad()
    def __call__(self, maps: Tensor, picture: Tensor) -> Tensor:
        """Refine: class maps (C, H, W) on the scale of the given ones."""
        if not maps.numel():
            return maps
        height, width = maps.shape[1:]
        every = self._subsample if max(height, width) > LARGE else 1
        more = (0, -width % every, 0, -height % every)
        maps, picture = (pad(part[None].float(), more, mode="replicate")[0] for part in (maps, picture))
        reach = 2 * (self._size + every)  # of two means and of what lies between the coefficients
        return by_tiles(partial(self._blur, every), maps, picture, reach + -reach % every)[:, :height, :width]

    def _blur(self, every: int, maps: Tensor, picture: Tensor) -> Tensor:
        options: dict[str, Any] = {"border_type": "replicate", "subsample": every, "separable": True}
        return self._filter(picture[None], maps[None], self._size, self._eps, **options)[0]


def by_tiles(refine: Callable[[Tensor, Tensor], Tensor], maps: Tensor, picture: Tensor, reach: int) -> Tensor:
    """Refine maps (C, H, W) tile by tile, each with what lies within `reach` pixels around it, further than which no pixel matters."""
    height, width = maps.shape[1:]
    refined = torch.empty_like(maps)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            rows = slice(max(0, top - reach), top + TILE + reach)
            columns = slice(max(0, left - reach), left + TILE + reach)
            tile = refine(maps[:, rows, columns], picture[:, rows, columns])
            place = refined[:, top : top + TILE, left : left + TILE]
            first, second = top - rows.start, left - columns.start
            place.copy_(tile[:, first : first + place.shape[1], second : second + place.shape[2]])
    return refined

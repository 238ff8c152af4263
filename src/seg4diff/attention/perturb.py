"""Perturb the joint attention of blocks, to see what each is for: causal tests, usable around a pipeline of your own too.

Each is a context manager. When it ends, also after an exception, the model is as before. A setting that changes nothing adds no hook.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import isfinite
from numbers import Integral, Real

import torch
from torch import Tensor
from torch.nn.functional import pad

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import i2t_per_head
from seg4diff.attention.seam import Visit, edit
from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError

Blocks = int | Sequence[int]
SIGMA, KERNEL = 9.0, 5
"""Of the blur, in text tokens (paper, section 3.3)."""


def blur_text(backbone: Backbone, block: Blocks, *, sigma: float = SIGMA, kernel: int = KERNEL) -> AbstractContextManager[None]:
    """Blur the image-to-text attention of blocks along the text, see `blurred` (paper, Figs. 5, 18 and 31).

    Image tokens then no longer know which text token they attend to. Text queries, and the attention within the image, are untouched.

    Args:
        backbone: the model.
        block: index of a joint-attention block, or several.
        sigma: standard deviation of the Gaussian in text tokens; 0 = no blur.
        kernel: odd number of text tokens that it spans.

    Raises:
        UserError: a value is out of range, or a block does not exist; inside, if the kernel spans more than the text.
    """
    blocks = check_blocks(backbone, block)
    check_blur(sigma, kernel)
    if sigma == 0:
        return nullcontext()
    return edit(backbone, blocks, attention=lambda visit: blurred_attention(visit, slice(None), sigma, kernel))


def remove(backbone: Backbone, block: Blocks) -> AbstractContextManager[None]:
    """Leave blocks out: their tokens leave them as they entered (Unraveling MMDiT Blocks, arXiv 2601.02211).

    Args:
        backbone: the model.
        block: index of a joint-attention block, or several.

    Raises:
        UserError: a block does not exist.
    """
    return edit(backbone, check_blocks(backbone, block), skip=True)


def scale_text(backbone: Backbone, block: Blocks, factor: float) -> AbstractContextManager[None]:
    """Multiply the text tokens that enter blocks (Unraveling MMDiT Blocks, arXiv 2601.02211).

    A block normalises what enters it, so a factor above 0 acts through the residual stream, which the block adds to and passes on.

    Args:
        backbone: the model.
        block: index of a joint-attention block, or several.
        factor: 0 = disabled, 1 = as it is, 2 = enhanced.

    Raises:
        UserError: the factor is no such number, or a block does not exist.
    """
    blocks = check_blocks(backbone, block)
    check_scale(factor, "factor")
    if factor == 1:
        return nullcontext()
    return edit(backbone, blocks, states=lambda image, text: (image, text * factor))


def text_temperature(backbone: Backbone, block: Blocks, factor: float) -> AbstractContextManager[None]:
    """Multiply the scores of image queries with text keys, before the joint softmax (TACA, arXiv 2506.07986).

    Args:
        backbone: the model.
        block: index of a joint-attention block, or several.
        factor: 1 = as it is; above 1, image tokens see more of the text tokens that they score highest.

    Raises:
        UserError: the factor is no such number, or a block does not exist.
    """
    blocks = check_blocks(backbone, block)
    check_scale(factor, "factor")
    if factor == 1:
        return nullcontext()
    return edit(backbone, blocks, attention=lambda visit: _attend_from_image(visit, lambda joint: _scale_text_keys(joint, factor)))


def blurred(maps: Tensor, sigma: float, kernel: int, present: Tensor | None = None) -> Tensor:
    """Maps (..., T, N) blurred along their T text tokens by a Gaussian; the sum over T of each image token is kept.

    At its ends the text is continued by reflection, without a repeated end: t2 t1 | t0 t1 t2. This alone would change the sums, because an
    end token weighs less than others; the rescaling keeps them.

    Args:
        maps: at least 0.
        sigma: standard deviation in text tokens, above 0.
        kernel: odd number of text tokens.
        present: (B, T) bool, the tokens that may be looked at; None = all.

    Raises:
        UserError: the kernel reaches beyond the reflected text.
    """
    tokens, reach = maps.shape[-2], kernel // 2
    if reach >= tokens:
        raise UserError(f"`kernel` must be at most {2 * tokens - 1} for a text of {tokens} tokens, found {kernel}.")
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    weights = (-(offsets / sigma).square() / 2).softmax(dim=0)
    identity = torch.eye(tokens, device=maps.device, dtype=maps.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        spread = pad(identity, (reach, reach), mode="reflect").unfold(-1, kernel, 1) @ weights  # (T, T): what each token gives to each
        mixed = spread.T @ maps
    if present is not None:
        mixed = mixed * present[:, None, :, None]
    tiny = torch.finfo(maps.dtype).tiny
    return mixed * (maps.sum(dim=-2, keepdim=True) / mixed.sum(dim=-2, keepdim=True).clamp_min(tiny))


def blurred_attention(visit: Visit, rows: slice, sigma: float, kernel: int) -> tuple[Tensor, Tensor]:
    """Output of a visit with blurred I2T attention in these rows of the batch.

    Attention is linear in its weights: the output changes by (blurred I2T - I2T) @ text values. So the weights of N image tokens over T
    text tokens suffice, and the (N + T) x (N + T) matrix is never formed.
    """
    image, text = visit.output
    joint = visit.joint.of_rows(rows)
    maps = i2t_per_head(joint, "joint")
    change = blurred(maps, sigma, kernel, joint.text_present) - maps
    with torch.autocast(maps.device.type, enabled=False):
        change = change.transpose(-1, -2) @ joint.text_value.to(maps.dtype)
    image = image.clone()
    image[rows] += change.to(image.dtype)
    return image, text


def check_blocks(backbone: Backbone, block: Blocks) -> list[int]:
    """One block or several as a list, each once. Raises UserError if one does not exist."""
    blocks = list(block) if isinstance(block, Sequence) and not isinstance(block, str) else [block]
    if not blocks or not all(isinstance(one, Integral) and not isinstance(one, bool) for one in blocks):
        raise UserError(f"`block` must be the index of a block, or several in a list, found {block!r}.")
    chosen = list(dict.fromkeys(int(one) for one in blocks))
    backbone.select_sites(chosen)
    return chosen


def check_blur(sigma: float, kernel: int) -> None:
    """Raises UserError if these are no standard deviation and no odd kernel."""
    if not _is_number(sigma) or sigma < 0:
        raise UserError(f"`sigma` of the blur must be a number from 0, found {sigma!r}.")
    if not isinstance(kernel, Integral) or isinstance(kernel, bool) or kernel < 1 or kernel % 2 == 0:
        raise UserError(f"`kernel` must be an odd number from 1, found {kernel!r}.")


def check_scale(value: float, name: str = "scale") -> None:
    """Raises UserError if this is no number from 0."""
    if not _is_number(value) or value < 0:
        raise UserError(f"`{name}` must be a number from 0, found {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _attend_from_image(visit: Visit, change: Callable[[Joint], Joint]) -> tuple[Tensor, Tensor]:
    """Image queries attend to changed keys and values, text queries to those of the model."""
    _, text = visit.output
    image, _ = visit.attend(change(visit.joint))
    return image, text


def _scale_text_keys(joint: Joint, factor: float) -> Joint:
    return replace(joint, text_key=joint.text_key * factor)

"""Perturbed-I2T guidance (paper, Figs. 6 and 32): v + s (v - v_perturbed), in the pass that the pipeline makes anyway."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from seg4diff.attention.perturb import KERNEL, SIGMA, Blocks, blurred_attention, check_blocks, check_blur, check_scale
from seg4diff.attention.seam import Passes, Visit, edit, follow_passes
from seg4diff.backbones.base import Backbone
from seg4diff.backbones.hooks import change_arguments, change_output


def perturbed_guidance(
    backbone: Backbone, block: Blocks, scale: float, *, sigma: float = SIGMA, kernel: int = KERNEL
) -> AbstractContextManager[None]:
    """Steer every prediction away from the one with blurred image-to-text attention: v + s (v - v_perturbed).

    Each pass gets a copy of the rows that see the prompt, and only the copies are perturbed. With classifier-free guidance of scale g, an
    image is drawn by v_u + g (v_c - v_u) + s (v_c - v_perturbed), where v_u does not see the prompt. Several of these contexts add up.
    The pipelines of LongCat-Image, Lumina-Image 2 and Qwen-Image then scale this to the length of the (guided) prediction with the prompt.

    Args:
        backbone: the model; inside, call `predict_velocity`, `sample`, or the pipeline itself.
        block: index of the joint-attention block whose attention is blurred, or several.
        scale: s, at least 0; 0 = the plain pipeline.
        sigma: see `blur_text`.
        kernel: see `blur_text`.

    Raises:
        UserError: a value is out of range, or a block does not exist; inside, if the kernel spans more than the text.
    """
    blocks = check_blocks(backbone, block)
    check_blur(sigma, kernel)
    check_scale(scale)
    return nullcontext() if scale == 0 or sigma == 0 else _guided(backbone, blocks, scale, sigma, kernel)


@contextmanager
def _guided(backbone: Backbone, blocks: list[int], scale: float, sigma: float, kernel: int) -> Iterator[None]:
    with ExitStack() as stack:
        rows = _Copies(backbone, follow_passes(stack, backbone), scale)

        def blur(visit: Visit) -> tuple[Tensor, Tensor]:
            return blurred_attention(visit, rows.copies, sigma, kernel) if rows.count else visit.output

        stack.enter_context(change_arguments(backbone.transformer, rows.add))
        stack.enter_context(edit(backbone, blocks, attention=blur))
        stack.enter_context(change_output(backbone.transformer, rows.guide))
        yield


class _Copies:
    """The copies of the prompted rows in the present pass: the last rows of its batch."""

    def __init__(self, backbone: Backbone, passes: Passes, scale: float) -> None:
        self._backbone, self._passes, self._scale = backbone, passes, scale
        self._batch, self._shift = 0, torch.zeros(0)

    @property
    def count(self) -> int:
        """Number of copies; 0 in a pass that is all without the prompt."""
        return len(range(self._batch)[self._passes.prompted])

    @property
    def copies(self) -> slice:
        """Where they are in the batch."""
        return slice(self._batch, self._batch + self.count)

    def add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the pass with the copies behind the rows of every batched tensor."""
        self._batch = len(arguments[self._backbone.tokens])
        batched = {name: value for name, value in arguments.items() if name not in self._backbone.unbatched}
        listed = {name: value + value[self._passes.prompted] for name, value in batched.items() if name in self._backbone.listed}
        return {name: self._with_copies(value) for name, value in batched.items()} | listed if self.count else {}

    def _with_copies(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape[:1] == (self._batch,):
            return torch.cat([value, value[self._passes.prompted]])
        if isinstance(value, dict):
            return {name: self._with_copies(part) for name, part in value.items()}
        return [self._with_copies(part) for part in value] if isinstance(value, list | tuple) else value

    def guide(self, _: dict[str, Any], output: Any) -> Any:
        """The output of the pass without the copies, each of its rows shifted by s (v - v_perturbed).

        Classifier-free guidance weighs its predictions by weights that sum to 1. So a shift of all of them is a shift of the result.
        A prediction without the prompt that has a pass of its own comes later in the step, and is shifted by what the earlier pass found.
        """
        listed = isinstance(output[0], list)
        velocity = torch.stack(output[0]) if listed else output[0]
        own = velocity[: self._batch]
        if self.count:
            self._shift = self._scale * (own[self._passes.prompted] - velocity[self.copies])
        guided = own + self._shift.repeat(len(own) // len(self._shift), *[1] * (own.ndim - 1))
        found = list(guided) if listed else guided
        return (found,) if isinstance(output, tuple) else type(output)(sample=found)

"""Where a diffusers pipeline is while it samples: in which step, and which of its predictions a forward pass computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from seg4diff.backbones.base import OnStep
from seg4diff.backbones.hooks import see_arguments


class SamplingClock:
    """Follows one sampling run at a time; outside of `running` there is none."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._images, self._passes = 0, 0

    @contextmanager
    def running(self, transformer: nn.Module, images: int, on_step: OnStep | None) -> Iterator[Callable]:
        """Follow a run of so many images; yields what the pipeline takes as `callback_on_step_end`.

        Args:
            transformer: the pipeline's transformer.
            images: images that are drawn together.
            on_step: called after each step.
        """

        def after_step(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if on_step is not None:
                on_step(step, tensors["latents"])
            self._step, self._passes = step + 1, 0
            return tensors

        self._step, self._images, self._passes = 0, images, 0
        try:
            with see_arguments(transformer, self._begin_pass):
                yield after_step
        finally:
            self._step = None

    def _begin_pass(self, _: dict[str, Any]) -> None:
        self._passes += 1

    def now(self, batch: int) -> tuple[int | None, slice]:
        """See `Backbone.sampling_pass`."""
        if self._step is None:
            return None, slice(0, batch)
        if batch == 2 * self._images:  # both predictions of classifier-free guidance in one pass, the one without the prompt first
            return self._step, slice(self._images, batch)
        return self._step, slice(0, batch if self._passes == 1 else 0)  # or the one without the prompt in a pass of its own

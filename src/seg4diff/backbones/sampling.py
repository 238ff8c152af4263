"""Where a diffusers pipeline is while it samples: read from its scheduler, so it does not matter who called the pipeline."""

from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

from seg4diff.backbones.base import OnStep, SamplingStep


def current_step(pipeline: DiffusionPipeline, *, both_halves: bool) -> SamplingStep | None:
    """The step that a pipeline takes, None between two runs.

    A scheduler learns its number of steps when a run begins. It makes new time steps for each run, and counts the steps that it has
    taken.

    Args:
        pipeline: the pipeline.
        both_halves: whether its family computes both predictions of classifier-free guidance in one pass.
    """
    scheduler = pipeline.scheduler
    index = scheduler.step_index or 0
    if getattr(scheduler, "num_inference_steps", None) is None or index >= len(scheduler.timesteps):
        return None
    return SamplingStep(scheduler.timesteps, index, both_halves and _guides(pipeline))


def step_by_time(pipeline: DiffusionPipeline, *, both_halves: bool) -> SamplingStep | None:
    """As `current_step`, where the scheduler counts no steps and the pipeline tells its time step."""
    now, times = getattr(pipeline, "current_timestep", None), pipeline.scheduler.timesteps
    return None if now is None else SamplingStep(times, int((times == now).nonzero()[0]), both_halves and _guides(pipeline))


def _guides(pipeline: DiffusionPipeline) -> bool:
    """Whether the run uses classifier-free guidance; the pipelines of AuraFlow and CogVideoX tell only its scale."""
    known = getattr(pipeline, "do_classifier_free_guidance", None)
    return pipeline.guidance_scale > 1 if known is None else known


def after_step(on_step: OnStep | None) -> Callable:
    """What a pipeline takes as `callback_on_step_end`."""

    def call(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None:
            on_step(step, tensors["latents"])
        return tensors

    return call

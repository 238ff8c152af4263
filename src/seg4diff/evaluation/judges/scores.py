"""Means of scores of single images, with intervals over prompts; what a LoRA adds, paired by prompt and image."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seg4diff.errors import UserError
from seg4diff.evaluation.bootstrap import percentile_interval, resampled_mean

OVERALL = "overall"
"""Mean over the groups, each with the same weight: GenEval's own overall score."""


@dataclass(frozen=True)
class Score:
    """One figure of one image.

    Attributes:
        prompt: its prompt.
        image: number of the image among those of the prompt.
        group: task or category of the prompt.
        value: the figure.
    """

    prompt: str
    image: int
    group: str
    value: float


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its 95 % interval over prompts.

    Attributes:
        mean: the mean.
        low: lower end of the interval.
        high: upper end of the interval.
        prompts: number of prompts.
        images: number of images.
    """

    mean: float
    low: float
    high: float
    prompts: int
    images: int


def estimates(scores: Iterable[Score], resamples: int, seed: int) -> dict[str, Estimate]:
    """Means by group and, of several groups, `OVERALL`; prompts are drawn again within their group.

    Args:
        scores: of the images.
        resamples: number of resamples of the bootstrap.
        seed: seed of the draws.
    """
    groups: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.group].append(score)
    found, draws = {}, []
    for place, (group, own) in enumerate(groups.items()):
        totals, images = _by_prompt(own)
        drawn = resampled_mean(totals, images, resamples, seed + place)
        found[group] = _estimate(float(totals.sum() / images.sum()), drawn, len(totals), len(own))
        draws.append(drawn)
    if len(found) > 1:
        parts = list(found.values())
        mean = sum(part.mean for part in parts) / len(parts)
        counts = sum(part.prompts for part in parts), sum(part.images for part in parts)
        found[OVERALL] = _estimate(mean, torch.stack(draws).mean(dim=0), *counts)
    return found


def gains(base: Iterable[Score], other: Iterable[Score], resamples: int, seed: int) -> dict[str, Estimate]:
    """What `other` adds to `base`: means of the differences of the images that both have.

    Args:
        base: scores of one folder.
        other: scores of the other one.
        resamples: number of resamples of the bootstrap.
        seed: seed of the draws.

    Raises:
        UserError: they have no image in common.
    """
    before = {(score.prompt, score.image): score for score in base}
    both = [score for score in other if (score.prompt, score.image) in before]
    if not both:
        raise UserError("the two folders have no prompt and image number in common: export both with the same prompts and seeds.")
    values = [score.value - before[score.prompt, score.image].value for score in both]
    return estimates(
        (Score(score.prompt, score.image, score.group, value) for score, value in zip(both, values, strict=True)), resamples, seed
    )


def _by_prompt(scores: Sequence[Score]) -> tuple[Tensor, Tensor]:
    """Sum of the values and number of the images of each of N prompts: (N,) float64 each."""
    values: dict[str, list[float]] = defaultdict(list)
    for score in sorted(scores, key=lambda score: (score.prompt, score.image)):
        values[score.prompt].append(score.value)
    rows = [(sum(own), len(own)) for own in values.values()]
    totals, images = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
    return totals, images


def _estimate(mean: float, drawn: Tensor, prompts: int, images: int) -> Estimate:
    low, high = percentile_interval(drawn)
    return Estimate(mean, low, high, prompts, images)

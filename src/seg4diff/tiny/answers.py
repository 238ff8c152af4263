"""Whether an image shows what its prompt asks for: answers per image as plain values, and their means with intervals over prompts."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from seg4diff.data.toyworld.captions import SHADES, SIZES, place_of
from seg4diff.evaluation.bootstrap import percentile_interval, resampled_mean
from seg4diff.evaluation.report import CATEGORIES
from seg4diff.tiny.find import Findings, Found
from seg4diff.tiny.prompts import Asked, ToyPrompt

GROUND_SHARE = 0.6
"""Share of the pixels outside the things that must look like the ground that is asked for."""

Answers = dict[str, float]
"""Answers about one image by category, each in [0, 1]; a category that its prompt does not ask about is missing."""


def answer(prompt: ToyPrompt, findings: Findings) -> Answers:
    """What an image shows of its prompt.

    Returns:
        presence: share of the named things and the ground that are there; all_present: 1 = every one of them;
        ground: 1 = it is the one that is named; two: 1 = both things of a prompt with two single things are there;
        counting: 1 = every counted noun occurs exactly as often as the prompt says;
        shade, size, place: share of the things with such a word of which it is true (not of a thing that is missing);
        extra: 1 = there is a thing that no word names; structure: mean IoU of the named things that were found with their drawn shapes.
    """
    ground = float(findings.ground == prompt.ground and findings.ground_share >= GROUND_SHARE)
    there = [float(bool(findings.named(asked.name))) for asked in prompt.things]
    found = {"presence": float(np.mean([*there, ground])), "all_present": min([*there, ground]), "ground": ground}
    counted = [asked for asked in prompt.things if asked.count is not None]
    if counted:
        found["counting"] = float(all(len(findings.named(asked.name)) == asked.count for asked in counted))
    if len(counted) == 2 and all(asked.count == 1 for asked in counted):
        found["two"] = min(there)
    for category in ("shade", "size", "place"):
        asked_for = [asked for asked in prompt.things if getattr(asked, category) is not None]
        if asked_for:
            found[category] = float(np.mean([_holds(category, asked, findings.named(asked.name)) for asked in asked_for]))
    names = {asked.name for asked in prompt.things}
    found["extra"] = float(any(thing.placed.name not in names for thing in findings.things))
    shapes = [thing.structure for thing in findings.things if thing.placed.name in names]
    if shapes:
        found["structure"] = float(np.mean(shapes))
    return found


def _holds(category: str, asked: Asked, found: Sequence[Found]) -> bool:
    """Whether the word is true of the first thing with this noun, as the captions would have it."""
    if not found:
        return False
    placed = found[0].placed
    words = {
        "shade": SHADES[int(placed.brightness > 0.5)],
        "size": SIZES[int(placed.size > 0.5)],
        "place": place_of(*placed.centre),
    }
    return words[category] == getattr(asked, category)


def means(answers: Sequence[Sequence[Answers]]) -> dict[str, float]:
    """Mean over prompts of the mean over their images, by category.

    Args:
        answers: for each prompt those of its images, one per seed.
    """
    return {name: float(np.mean(list(rows.values()))) for name, rows in _per_prompt(answers).items()}


def intervals(answers: Sequence[Sequence[Answers]], resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of the means, over prompts; see `means`."""
    return {name: _interval(list(rows.values()), resamples, seed) for name, rows in _per_prompt(answers).items()}


def gains(
    base: Sequence[Sequence[Answers]], other: Sequence[Sequence[Answers]], resamples: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """What `other` adds to `base`: mean and 95 % interval, by category, of the differences of the images that both answer.

    Args:
        base: for each prompt the answers of its images, one per seed.
        other: those of the same prompts and seeds.
        resamples: number of resamples of the bootstrap.
        seed: seed of the draws.
    """
    differences = [
        [{name: after[name] - before[name] for name in before if name in after} for before, after in zip(*images, strict=True)]
        for images in zip(base, other, strict=True)
    ]
    bounds = intervals(differences, resamples, seed)
    return {name: (mean, *bounds[name]) for name, mean in means(differences).items()}


def _per_prompt(answers: Sequence[Sequence[Answers]]) -> dict[str, dict[int, float]]:
    """By category, in their order, and number of the prompt, the mean over its images that have an answer."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for k, images in enumerate(answers):
        for own in images:
            for name, value in own.items():
                values[name][k].append(value)
    return {name: {k: float(np.mean(own)) for k, own in values[name].items()} for name in CATEGORIES if name in values}


def _interval(values: Sequence[float], resamples: int, seed: int) -> tuple[float, float]:
    own = torch.tensor(values, dtype=torch.float64)
    return percentile_interval(resampled_mean(own, torch.ones_like(own), resamples, seed))

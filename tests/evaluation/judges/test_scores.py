"""Means of images with intervals over prompts, and paired gains."""

import numpy as np
import pytest
import torch

from seg4diff.errors import UserError
from seg4diff.evaluation.bootstrap import resampled_mean
from seg4diff.evaluation.judges.scores import OVERALL, Score, estimates, gains


def scores(values, group="colors", prefix="prompt"):
    """Values by prompt and image: [[1, 0], [1]] are two images of one prompt and one of another."""
    return [Score(f"{prefix} {k}", n, group, float(value)) for k, own in enumerate(values) for n, value in enumerate(own)]


def test_means_by_hand():
    found = estimates(scores([[1, 0], [1]]) + scores([[0, 0]], "counting", "other"), 100, seed=0)
    assert found["colors"].mean == pytest.approx(2 / 3)  # over images, as GenEval's own summary has it
    assert (found["colors"].prompts, found["colors"].images) == (2, 3)
    assert found["counting"].mean == found["counting"].high == 0
    assert found[OVERALL].mean == pytest.approx(1 / 3) and found[OVERALL].images == 5


def test_one_group_has_no_overall():
    assert list(estimates(scores([[1], [0]]), 10, seed=0)) == ["colors"]


def test_images_of_a_prompt_are_drawn_together():
    """Ten images of a prompt that agree are one piece of evidence, not ten."""
    alone, many = scores([[k % 2] for k in range(20)]), scores([[k % 2] * 10 for k in range(20)])
    assert estimates(alone, 500, seed=0)["colors"].low == estimates(many, 500, seed=0)["colors"].low < 0.35


def test_resampled_means_are_those_of_a_slow_loop():
    totals, images = torch.tensor([3.0, 0.5, 2.0]), torch.tensor([4, 1, 2])
    generator = torch.Generator().manual_seed(7)
    draws = [torch.randint(3, (3,), generator=generator) for _ in range(150)]
    expected = torch.stack([totals[drawn].sum() / images[drawn].sum() for drawn in draws])
    assert torch.allclose(resampled_mean(totals, images, 150, seed=7), expected.double())


def test_the_order_of_images_changes_nothing():
    own = scores([[1, 0, 1], [0, 0], [1]])
    assert estimates(own, 200, seed=3) == estimates(own[::-1], 200, seed=3)


def test_gains_are_paired():
    """Prompts differ much, the LoRA adds 0.1 to each of them: the gain is sure where the means are not."""
    levels = np.random.default_rng(0).random(40)
    base, lora = scores([[level] for level in levels]), scores([[level + 0.1] for level in levels])
    gain = gains(base, lora, 500, seed=0)["colors"]
    assert gain.low == pytest.approx(0.1) and gain.high == pytest.approx(0.1)
    assert estimates(base, 500, seed=0)["colors"].high > estimates(lora, 500, seed=0)["colors"].low


def test_gains_are_of_what_both_have():
    base, lora = scores([[0, 0], [0]]), scores([[1, 1, 1], [0], [1]])
    gain = gains(base[::-1], lora, 10, seed=0)["colors"]
    assert (gain.mean, gain.prompts, gain.images) == (pytest.approx(2 / 3), 2, 3)
    with pytest.raises(UserError, match="no prompt and image number in common"):
        gains(scores([[1]], prefix="another"), lora, 10, seed=0)


def test_intervals_cover_as_often_as_they_say():
    """200 benchmarks of 60 prompts with 4 images each, whose difficulty varies: 95 % within 3 standard errors of a proportion."""
    rng = np.random.default_rng(1)
    trials, covered = 200, 0
    for trial in range(trials):
        found = estimates(scores(rng.binomial(1, rng.beta(2, 2, (60, 1)), (60, 4))), 200, seed=trial)["colors"]
        covered += found.low <= 0.5 <= found.high
    assert abs(covered / trials - 0.95) < 3 * (0.95 * 0.05 / trials) ** 0.5

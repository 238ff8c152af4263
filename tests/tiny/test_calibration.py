"""The evaluator against scenes whose content is known."""

import numpy as np
import pytest

from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.tiny.calibration import Score, blurred, calibrate, noised

SCENES = [make_scene(8, "test", index) for index in range(12)]


def test_precision_is_of_claims_and_recall_of_what_is_true():
    assert (Score(6, 8, 12).precision, Score(6, 8, 12).recall) == (0.75, 0.5)


@pytest.mark.parametrize("change", [lambda image: image, blurred, noised])
def test_presence_and_counts_are_found(change):
    scores = calibrate(SCENES, change)
    for name in ("presence", "counting", "things", "ground"):
        assert min(scores[name].precision, scores[name].recall) >= 0.95, name


def test_a_blank_image_is_claimed_to_show_nothing():
    scores = calibrate(SCENES[:2], lambda image: np.full_like(image, 235))
    assert scores["things"].right == scores["things"].claimed == 0 and scores["things"].recall == 0

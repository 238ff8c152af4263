"""Sample images of a run."""

import numpy as np
import pytest
from tests.hosts import random_sd3

from seg4diff.errors import UserError
from seg4diff.training.callbacks import SampleImages


def samples(folder, at_once):
    prompts = ["apple", "sky", "", "apple sky", "sky"]
    return SampleImages(prompts=prompts, seed=3, steps=2, guidance=2.0, size=(32, 48), output_dir=str(folder), at_once=at_once)


@pytest.mark.parametrize("at_once", [2, 5, 9])
def test_images_that_are_drawn_together_are_those_drawn_alone(at_once, tmp_path):
    backbone = random_sd3()
    alone, together = (np.asarray(samples(tmp_path, own).draw(backbone), dtype=int) for own in (1, at_once))
    assert alone.shape == together.shape and abs(alone - together).max() <= 1


def test_a_batch_holds_at_least_one_image(tmp_path):
    with pytest.raises(UserError, match="`at_once` must be at least 1, found 0"):
        samples(tmp_path, 0)

"""Causal tests measure the distance to what the model does by itself."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from seg4diff.analysis.causal import PERTURBATIONS, estimate
from seg4diff.analysis.trials import Trials, pixel_distances
from seg4diff.attention.perturb import remove
from seg4diff.data.sample import Vocabulary
from tests.analyses import SIGMAS, generated, labelled, setting_of, studied
from tests.families import FAMILIES
from tests.hosts import random_sd3


class Brightness:
    """A judge without a network."""

    name, prompts = "brightness", ["an apple", "two stars", "a leaf"]

    def __call__(self, images, prompts):
        assert set(prompts) <= set(self.prompts)
        return [float(np.asarray(image).mean()) for image in images]


def trials(**options):
    return Trials(**{"segmented": 2, "generated": 2, "steps": 2, "guidance": 2.0, "size": (32, 48)} | options)


def found(setting, *scenes):
    rows = studied(setting, *scenes, names=["causal"])["causal"].result().rows
    return {(row["task"], row["perturbation"], row["sigma"], row["block"], row["maps"], row["quantity"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def model():
    return random_sd3(blocks=3)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    setting = setting_of(model, tmp_path_factory.mktemp("album"), trials=trials(exact=Brightness()))
    return found(setting, labelled(model, range(3)))


def test_velocity_and_estimate_are_those_of_passes_by_hand(model, whole):
    scene = labelled(model, range(2))
    noisy, sigma = scene.noisy(1)
    with torch.no_grad():
        clean = model.predict_velocity(noisy, sigma, scene.condition)
        with remove(model, 2):
            other = model.predict_velocity(noisy, sigma, scene.condition)
        images = [estimate(model, noisy, sigma, own) for own in (clean, other)]
    expected = ((other - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)).mean()
    assert whole["segmenting", "remove", SIGMAS[1], 2, None, "velocity"] == pytest.approx(float(expected), rel=1e-4)
    pixels = ((images[1] - images[0]) / 2).flatten(1).square().mean(dim=1).sqrt().mean()
    assert whole["segmenting", "remove", SIGMAS[1], 2, None, "estimate"] == pytest.approx(float(pixels), rel=1e-4)


def test_a_perturbation_is_seen_in_the_maps_of_the_blocks_behind_it(whole):
    for name in PERTURBATIONS:
        assert math.isnan(whole["segmenting", name, SIGMAS[0], 2, "later blocks", "gain"]), "the last block has none behind it"
    assert whole["segmenting", "remove", SIGMAS[0], 0, "later blocks", "gain"] != 0
    assert ("segmenting", "blur", SIGMAS[0], 0, "own", "gain") not in whole, "a blur does not change what its own maps are made of"


def test_the_score_without_a_perturbation_is_that_of_the_same_images(model, whole, tmp_path):
    study = studied(setting_of(model, tmp_path), labelled(model, range(2)), names=["segmentation"])["segmentation"]
    clean = study.blocks.scores()[:, :, 0, 0]
    for block in range(3):
        assert whole["segmenting", "none", SIGMAS[1], block, "own", "miou"] == pytest.approx(float(clean[1, block]))


def test_images_are_drawn_from_the_prompts_of_the_judge_and_compared_with_those_without(model, whole):
    options = {"seeds": [0, 1], "steps": 2, "guidance": 2.0, "size": (32, 48)}
    clean = model.sample(Brightness.prompts[:2], **options)
    with remove(model, 0):
        other = model.sample(Brightness.prompts[:2], **options)
    assert whole["generating", "remove", None, 0, None, "pixels"] == pytest.approx(np.mean(pixel_distances(other, clean)), rel=1e-4)
    judge = Brightness()
    before, after = (np.mean(judge(images, Brightness.prompts[:2])) for images in (clean, other))
    assert whole["generating", "none", None, None, None, "brightness"] == pytest.approx(before, rel=1e-4)
    assert whole["generating", "remove", None, 0, None, "brightness"] == pytest.approx(after - before, rel=1e-3)


@pytest.mark.parametrize("family", ["flux single", "flux2 double"])
def test_generated_images_need_no_masks(family, tmp_path):
    model = FAMILIES[family].model()
    values = found(setting_of(model, tmp_path, Vocabulary(()), trials=trials()), generated(model))
    assert {key[0] for key in values} == {"generating"} and all(math.isfinite(value) for value in values.values())
    assert {key[3] for key in values} == set(range(len(model.attention_sites())))


def test_nothing_is_tried_where_nothing_is_asked_for(model, tmp_path):
    assert not found(setting_of(model, tmp_path, trials=trials(segmented=0, generated=0)), labelled(model, range(2)))


def test_figures_whose_weights_are_not_there_are_skipped_with_a_sentence(model, tmp_path):
    own = trials(segmented=0, generated=1, dino="nowhere", exact=Brightness())
    clip, dino = own.skipped.values()
    assert clip == "similarity by CLIP of the causal tests is skipped: set `trials.clip` to a CLIP model."
    assert dino.startswith("similarity by DINO of the causal tests is skipped: there is no folder nowhere")
    values = found(setting_of(model, tmp_path, trials=own), labelled(model, range(2)))
    assert {key[-1] for key in values} == {"latents", "pixels", "brightness"}


def test_another_seed_draws_other_images(model, tmp_path):
    both = [found(setting_of(model, tmp_path, trials=trials(segmented=0, generated=1, seed=seed)), labelled(model, [0])) for seed in (0, 5)]
    assert both[0].keys() == both[1].keys() and both[0] != both[1]


def test_pixels_differ_by_a_share_of_the_whole_range():
    black, white = (Image.new("RGB", (6, 4), colour) for colour in ("black", "white"))
    assert pixel_distances([black, white, white], [black, black, white]) == [0, 1, 0]

"""The contest of the blocks: on counts made by hand, and on models that have learnt nothing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from seg4diff.analysis.evidence import rank_correlations
from seg4diff.analysis.finder import contest_without_masks, find_expert, resampled_iou
from seg4diff.analysis.scene import LabelledScene
from seg4diff.analysis.study import Findings
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.data.sample import collate
from seg4diff.data.toyworld.dataset import ToyWorld
from seg4diff.evaluation.bootstrap import times_drawn
from seg4diff.evaluation.metrics import mean_iou
from tests.analyses import NAMES, setting_of, studied
from tests.conftest import REPO
from tests.hosts import random_flux, random_flux2, random_sd3, scatter

IMAGES, PIXELS = 30, 60
RANDOM = {"sd3": random_sd3, "flux": random_flux, "flux2": random_flux2}


def grounding(*right):
    """Evidence of one block for each share of the pixels that are right; what is wrong is said to be the next class."""
    rows = []
    for image in range(IMAGES):
        shown = [image % 4, (image + 1) % 4]
        for block, share in enumerate(right):
            hits = [round(PIXELS * min(1, max(0, share + 0.1 * ((image * 7 + own) % 3 - 1)))) for own in shown]
            said = [hits[0] + PIXELS - hits[1], hits[1] + PIXELS - hits[0]]
            rows += [[image, 0, block, *own, PIXELS] for own in zip(shown, hits, said, strict=True)]
    return {"segmentation": Findings([], {"counts": torch.tensor(rows, dtype=torch.int32)})}


def setting(blocks):
    return SimpleNamespace(sigmas=[0.3], levels=1, blocks=blocks, vocabulary=NAMES, readout=SimpleNamespace(sigma=0.3))


def by_image(*numbers):
    """Evidence of budget, norms, granularity and causal tests for the values of each block, the same in every image."""
    parts = [torch.tensor(own, dtype=torch.float64).expand(9, 1, -1)[..., None].expand(-1, -1, -1, 6) for own in numbers]
    names = {"budget": "mass", "norms": "norm", "granularity": "values", "causal": "generating"}
    return {study: Findings([], {key: own}) for (study, key), own in zip(names.items(), parts, strict=True)}


def test_the_block_that_is_right_most_often_is_the_expert():
    found = find_expert(grounding(0.6, 0.95, 0.5), setting(3))
    assert (found["expert"], found["runner_up"], found["rule"]) == (1, 0, "masks")
    assert [row["block"] for row in found["ranking"]] == [1, 0, 2] and found["ranking"][0]["wins"] == 1
    low, high = found["ranking"][0]["interval"]
    assert low < found["ranking"][0]["score"] < high and "Block 1 is the expert" in found["sentence"]


def test_two_blocks_that_are_right_equally_often_are_no_single_expert():
    found = find_expert(grounding(0.5, 0.9, 0.9), setting(3))
    assert found["expert"] is None and [row["wins"] for row in found["ranking"]] == [0.5, 0.5, 0]
    assert found["sentence"].startswith("No single expert, by the mIoU: block 1 with")


def test_a_block_that_a_guess_equals_is_no_expert():
    found = find_expert(grounding(0.45, 0.5, 0.4), setting(3))
    assert found["expert"] is None and found["sentence"].startswith("No expert") and found["runner_up"] is None
    assert max(found["rivals"].values()) > 0.3


@pytest.mark.parametrize("family", RANDOM)
def test_random_weights_have_no_expert(family, tmp_path):
    """Two seeds here; `pytest -m slow` has twenty of each family."""
    model = RANDOM[family]()
    assert [expert_of(model, seed, tmp_path) for seed in range(2)] == [None] * 2


@pytest.mark.slow  # a minute and a half
@pytest.mark.parametrize("family", RANDOM)
def test_random_weights_have_no_expert_whatever_the_seed(family, tmp_path):
    model = RANDOM[family]()
    assert [expert_of(model, seed, tmp_path) for seed in range(20)] == [None] * 20


@pytest.mark.parametrize("seed", [0, *(pytest.param(own, marks=pytest.mark.slow) for own in (1, 2))])
def test_the_expert_of_the_tiny_model_is_found(seed, tmp_path):
    """It is block 1, the best one on the 256 scenes of the test split (docs/results.md), which are not among these."""
    model = SD3Backbone.from_pretrained(path=str(REPO / "assets" / "tiny-sd3"), t5_length=0).eval()
    found = verdict(model, seed, tmp_path, scenes=40)
    assert found["expert"] == 1, found["sentence"]


def verdict(model, seed, folder, scenes):
    """What the finder says of some scenes of the toy world."""
    world = ToyWorld(root=str(folder), seed=seed, side=96, height=None, sizes={"train": 1, "validation": scenes, "test": 1})
    world.prepare(["validation"])
    split = world.split("validation", None, resize_mask=False)
    own = replace(setting_of(model, folder, world.vocabulary), sigmas=[0.3])
    scene = LabelledScene.of_batch(model, own.sigmas, collate([split[k] for k in range(scenes)]), world.vocabulary, seed)
    return find_expert({"segmentation": studied(own, scene, names=["segmentation"])["segmentation"].result()}, own)


def expert_of(model, seed, folder):
    scatter(model.transformer, seed)
    return verdict(model, seed, folder / str(seed), scenes=16)["expert"]


def test_without_masks_the_studies_must_agree():
    high, low = [1.0, 3.0, 2.0], [0.9, 0.5, 0.7]  # a low entropy speaks for a block
    agreed = contest_without_masks(by_image(high, high, low, high), 0, 3)
    split = contest_without_masks(by_image(high, high, low, [3.0, 2.0, 1.0]), 0, 3)
    assert (agreed.expert, split.expert) == (1, None) and agreed.ranking == [1, 2, 0]
    assert (
        agreed.score.tolist() == [3, 1, 2]
        and "must come first in all of I2T attention per key, norm of the prompt's values" in split.sentence()
    )


def test_where_no_block_is_first_in_every_study_the_verdict_says_so():
    split = contest_without_masks(by_image([1.0, 3.0], [3.0, 1.0], [0.5, 0.9], [3.0, 1.0]), 0, 2)
    assert split.sentence().endswith("; no block does.")


def test_too_little_evidence_is_said():
    evidence = by_image([1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0])
    del evidence["causal"]
    found = find_expert(evidence, setting(2))
    assert found["expert"] is None and "all of budget, norms, granularity and causal" in found["sentence"]


def test_where_nothing_is_labelled_there_is_no_expert(tmp_path):
    empty = {"segmentation": Findings([], {"counts": torch.zeros(0, 7, dtype=torch.int32)})}
    found = find_expert(empty, setting(2))
    assert (found["expert"], found["sentence"]) == (None, "No expert: nothing is labelled in the images.")


def test_a_model_of_one_block_has_no_runner_up():
    found = find_expert(grounding(0.9), setting(1))
    assert (found["expert"], found["runner_up"]) == (0, None) and "runner-up" not in found["sentence"]


def test_the_ranking_shows_what_the_correlations_compare():
    entropy = [
        {"sigma": 0.3, "block": k, "head": None, "maps": "head mean", "quantity": "entropy", "value": 0.5 + k / 10} for k in range(2)
    ]
    found = find_expert(grounding(0.6, 0.95) | {"granularity": Findings(entropy)}, setting(2))
    assert {row["block"]: row["evidence"]["focus"] for row in found["ranking"]} == {0: -0.5, 1: -0.6}


def test_classes_are_drawn_as_well_as_images():
    counts = torch.randint(1, 20, (6, 3, 5), generator=torch.Generator().manual_seed(0)).double().cumsum(dim=1)
    every = resampled_iou(counts, torch.ones(1, 6).double(), torch.ones(1, 5).double())
    assert every.tolist() == pytest.approx([float(mean_iou(counts.sum(dim=0)))])
    images = torch.cat(list(times_drawn(6, 1, 0)))
    twice = torch.tensor([[2.0, 0, 1, 0, 0]]).double()
    right, said, true = (images[0, :, None, None] * counts).sum(dim=0)
    iou = right / (said + true - right)
    assert resampled_iou(counts, images, twice).tolist() == pytest.approx([float((2 * iou[0] + iou[2]) / 3)])


def test_rank_correlations_leave_out_what_some_block_lacks():
    found = rank_correlations({"a": [1.0, 2.0, 3.0], "b": [9.0, 5.0, 1.0], "c": [1.0, float("nan"), 2.0], "d": [4.0, 4.0, 4.0]})
    assert found["names"] == ["a", "b", "d"]
    assert found["spearman"] == [[pytest.approx(1), pytest.approx(-1), None], [pytest.approx(-1), pytest.approx(1), None], [None] * 3]


def test_what_trainings_found_stands_beside_the_evidence():
    found = find_expert(grounding(0.6, 0.95), setting(2), {"trained": {0: 0.7, 1: 0.8}, "trained gain": {1: 0.1}})
    assert found["ranking"][0]["evidence"]["trained"] == 0.8 and found["ranking"][1]["evidence"]["trained"] == 0.7
    assert found["correlations"]["names"] == ["trained"]

"""Segmentation without words, from the maps to the report."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from tests.hosts import random_sd3
from tests.runs import SMALL_RUN, compose_config, overrides

from seg4diff.commands.run import evaluate, train
from seg4diff.data.geometry import Window
from seg4diff.data.sample import IGNORE, Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.protocol import BlockScores
from seg4diff.evaluation.unsupervised import ProposalSegmenter, UnsupervisedModule
from seg4diff.segmentation.proposals import ProposalReadout
from seg4diff.segmentation.readout import Readout

PROPOSALS = ProposalReadout(readout=Readout(sigma=0.3, scores="joint", normalisation="none", seed=0), threshold=0.0, rounds=0)
QUARTERS = torch.tensor([[2, 2, 0], [2, 2, 0], [1, 1, 0], [1, IGNORE, 0]]).repeat_interleave(8, 0).repeat_interleave(16, 1)


def batch(mask, window=None):
    plain = Batch(torch.zeros(1, 3, 32, 48), [mask], [""], [""], [0])
    return plain if window is None else replace(plain, windows=[window])


def shown(*regions):
    """Stands in for `ProposalReadout.proposals`: distributions over 4 x 6 tokens, high in these rows and columns."""
    maps = torch.full((len(regions), 4, 6), 0.01)
    for own, (rows, columns) in zip(maps, regions, strict=True):
        own[rows, columns] = 1
    return lambda backbone, images, ids, blocks: {block: [maps / maps.sum(dim=(1, 2), keepdim=True)] for block in blocks}


TOP, BOTTOM, LEFT, RIGHT, ALL = slice(0, 2), slice(2, 4), slice(0, 4), slice(4, 6), slice(None)


def test_proposals_are_scored_by_the_class_that_they_are_matched_with(monkeypatch):
    monkeypatch.setattr(PROPOSALS, "proposals", shown((TOP, LEFT), (BOTTOM, LEFT), (ALL, RIGHT)))
    scores = BlockScores(segment=ProposalSegmenter(PROPOSALS, 3, None), blocks=[1, 2], classes=3)
    labels = scores.update(None, batch(QUARTERS))[2][0]
    counted = QUARTERS != IGNORE
    assert (labels == QUARTERS)[counted].float().mean() > 0.9, "but for the borders between regions of different strength"
    assert scores.compute()[1]["miou"] == scores.compute()[2]["miou"] > 0.8


def test_proposals_of_a_letterboxed_image_meet_its_mask(monkeypatch):
    """Rows 1 and 2 of the tokens see the image; the proposal of the padding is nowhere."""
    monkeypatch.setattr(PROPOSALS, "proposals", shown((slice(1, 3), LEFT), (slice(1, 3), RIGHT), ([0, 3], ALL)))
    mask = torch.tensor([[1] * 40 + [2] * 20] * 7)
    labels = ProposalSegmenter(PROPOSALS, 3, None)(None, batch(mask, Window(8, 0, 16, 48)), [0])[0][0]
    assert set(labels.flatten().tolist()) == {1, 2} and (labels == mask).float().mean() > 0.9


def module(matching, base_blocks="all"):
    options = {"vocabulary": Vocabulary(("wall", "sky")), "proposals": PROPOSALS}
    options |= {"expert_layer": 1, "base_blocks": base_blocks, "resamples": 10, "seed": 0}
    return UnsupervisedModule(backbone=random_sd3(), matching=matching, **options)


@pytest.mark.parametrize(
    ("blocks", "said"), [("foo", "`base_blocks` must be all or a list of block indices, found 'foo'"), ([0, 99], "block 99 does not exist")]
)
def test_blocks_that_are_none(blocks, said):
    with pytest.raises(UserError, match=said):
        module("one_to_one", base_blocks=blocks)


def test_only_a_background_class_can_be_left_over():
    with pytest.raises(UserError, match="this data set has no background class: set `matching=one_to_one`"):
        module("many_to_one").make_segmenter(Vocabulary(("wall", "sky")))
    with pytest.raises(UserError, match=r"`matching` must be one of one_to_one, many_to_one, found 'both'"):
        module("both")


def test_background_is_matched_as_asked(monkeypatch):
    """Two pieces of background, left over together or one by one."""
    monkeypatch.setattr(PROPOSALS, "proposals", shown((TOP, LEFT), (BOTTOM, LEFT), (ALL, RIGHT)))
    mask, vocabulary = torch.where(QUARTERS == 2, 1, 0), Vocabulary(("background", "wall"), background=0)
    one, many = (module(name).make_segmenter(vocabulary)(None, batch(mask), [0])[0][0] for name in ("one_to_one", "many_to_one"))
    assert set(one.flatten().tolist()) == {0, 1, IGNORE} and set(many.flatten().tolist()) == {0, 1}
    assert torch.equal(one[one != IGNORE], many[one != IGNORE]) and (many == mask).float().mean() > 0.9


PROMISED = {"miou_low", "miou_high", "miou", "macc", "pacc", "fwiou", "miou_union", "iou_per_class"}


def test_evaluation_ends_in_a_report(tmp_path, assets, world, capsys):
    arguments = [
        *overrides(assets, world),
        "evaluation=unsupervised",
        "split=validation",
        "evaluation.resamples=50",
        "trainer.accelerator=cpu",
    ]
    report = evaluate(compose_config("evaluate", tmp_path, "ckpt=base", *arguments))
    assert {f"base/{name}" for name in PROMISED} | {"baseline/single", "baseline/tiles", "upper_bound"} <= report.keys()
    assert report["images"] == 6 and list(report["miou_per_block"]) == [0, 1, 2, 3]
    assert report["base/miou_low"] <= report["base/miou"] <= report["base/miou_high"]
    assert json.loads((tmp_path / "metrics.json").read_text())["base/miou"] == report["base/miou"] == report["miou_per_block"][1]
    printed = capsys.readouterr().out
    assert f"{100 * report['base/miou']:.1f} [{100 * report['base/miou_low']:.1f}, {100 * report['base/miou_high']:.1f}]" in printed
    assert "one proposal" in printed and "Hungarian" in printed and "flow loss" not in printed
    rows = list(csv.DictReader((tmp_path / "per-class.csv").open()))
    assert len(rows) == len(report["base/iou_per_class"]) and (tmp_path / "pictures" / "overlays-test-000000.png").exists()
    merged = evaluate(compose_config("evaluate", tmp_path / "merged", "ckpt=base", *arguments, "backbone.merging.threshold=100"))
    assert merged["base/miou"] == merged["baseline/single"], "the threshold is read: everything is one proposal"


def test_base_and_lora_stand_side_by_side(tmp_path, assets, world, capsys):
    arguments = [
        *overrides(assets, world),
        *SMALL_RUN,
        "trainer.max_steps=2",
        "model.lr=0.05",
        "validate_first=false",
        "callbacks.samples=null",
    ]
    report = train(compose_config("train", tmp_path, *arguments, "evaluation=unsupervised", "evaluation.resamples=50"))
    assert {f"{variant}/{name}" for variant in ("base", "lora") for name in PROMISED} <= report.keys()
    assert report["gain/miou"] == pytest.approx(report["lora/miou"] - report["base/miou"], abs=1e-12)
    assert report["gain/miou_low"] <= report["gain/miou"] <= report["gain/miou_high"] and "LoRA - base" in capsys.readouterr().out

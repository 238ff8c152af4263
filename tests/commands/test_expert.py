"""expert_layer=auto takes the block from an analysis of this very model, and from no other."""

import json
import os

import pytest

from seg4diff.backbones.loading import Source
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.commands.expert import identity_of, settle_expert
from seg4diff.commands.inherit import inherit
from seg4diff.errors import UserError
from tests.runs import compose_config, overrides


@pytest.fixture
def config(assets, world, tmp_path):
    """A training that asks for the expert."""
    arguments = [*overrides(assets, world), f"paths.log_dir={tmp_path}", "expert_layer=auto"]
    return compose_config("train", tmp_path / "out", *arguments)


@pytest.fixture
def stored(assets, tmp_path):
    """Write an analysis of the model, or of one that differs."""

    def write(name, expert, rule="masks", readout=None, **other):
        readout = {"sigma": 0.3, "scores": "joint", "normalisation": "minmax", "seed": 0, "heads": None} | (readout or {})
        model = identity_of(Source(str(assets / "tiny-sd3"), None), SD3Backbone.encoders, None) | other
        finder = {"expert": expert, "rule": rule, "sentence": "Blocks 1 and 2 are alike."}
        file = tmp_path / "analyze" / name / "analysis.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"model": model, "settings": {"analysis": {"readout": readout}}, "finder": finder}))
        return file

    return write


def test_the_newest_analysis_of_this_model_is_taken(config, stored):
    times = {stored("a", 2): 30, stored("b", 3): 20, stored("c", 0, weights="changed"): 40}
    for file, time in times.items():
        os.utime(file, (time, time))
    settle_expert(config, None)
    assert config.expert_layer == 2 and config.model.expert_layer == 2


def test_an_analysis_without_a_contest_is_passed_over(config, stored):
    for file, time in {stored("a", 2): 30, stored("b", None, rule=None): 40}.items():
        os.utime(file, (time, time))
    settle_expert(config, None)
    assert config.expert_layer == 2


@pytest.mark.parametrize("other", [{"sigma": 0.5}, {"normalisation": "none"}, {"scores": "logits"}, {"heads": [1]}])
def test_an_analysis_with_another_readout_is_refused(other, config, stored):
    file = stored("a", 2, readout=other)
    with pytest.raises(UserError, match=f"reads the model otherwise, its {next(iter(other))} differ: run"):
        settle_expert(config, None)
    config.expert_from = str(file.parent)
    with pytest.raises(UserError, match="reads the model otherwise"):
        settle_expert(config, None)


def test_a_named_analysis_is_taken_though_it_is_older(config, stored):
    file = stored("a", 2)
    stored("b", 3)
    config.expert_from = str(file.parent)
    settle_expert(config, None)
    assert config.expert_layer == 2


@pytest.mark.parametrize("other", [{"weights": "changed"}, {"revision": "main"}, {"lora": "0a1b"}])
def test_the_analysis_of_another_model_is_refused(other, config, stored):
    config.expert_from = str(stored("a", 2, **other).parent)
    with pytest.raises(UserError, match=f"analysis of another model, its {next(iter(other))} differ.*analyze.py"):
        settle_expert(config, None)
    config.expert_from = None
    with pytest.raises(UserError, match="holds no analysis of this model for expert_layer=auto: run `python analyze"):
        settle_expert(config, None)


def test_an_analysis_without_an_expert_gives_none(config, stored):
    stored("a", None)
    with pytest.raises(UserError, match="names no expert: set expert_layer to a block yourself"):
        settle_expert(config, None)


def test_a_folder_without_an_analysis_is_no_analysis(config, tmp_path):
    config.expert_from = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: set expert_from to the folder"):
        settle_expert(config, None)


def test_a_number_stays_and_needs_no_analysis(config):
    config.expert_layer = 1
    settle_expert(config, None)
    assert config.expert_layer == 1


def test_an_untrained_backbone_has_no_analysis(config, assets, world, tmp_path):
    own = compose_config("train", tmp_path / "out", "experiment=toyworld_pretrain", "+expert_layer=auto", f"paths.data_dir={world}")
    with pytest.raises(UserError, match="expert_layer=auto needs a pretrained backbone"):
        settle_expert(own, None)


def test_an_evaluation_asks_too(assets, world, stored, tmp_path):
    stored("a", 3)
    arguments = [*overrides(assets, world), f"paths.log_dir={tmp_path}", "ckpt=base", "expert_layer=auto"]
    config = compose_config("evaluate", tmp_path / "out", *arguments)
    inherit(config)
    assert config.evaluation.expert_layer == 3

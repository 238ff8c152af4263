"""Presets: a file of conf/backbone read without Hydra says what Hydra composes of it."""

import shutil

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from seg4diff import presets
from seg4diff.errors import UserError
from seg4diff.presets import Preset, names
from tests.conftest import REPO
from tests.runs import compose_config

SHARED = {"backbone", "benchmark", "callbacks", "data", "labelled_data"}
"""Files at the top of conf that those of a group share."""


@pytest.mark.parametrize("name", names())
def test_a_preset_is_what_hydra_composes(name, tmp_path):
    assert Preset.named(name) == Preset.of(name, compose_config("train", tmp_path, f"backbone={name}").backbone)


def test_a_model_may_be_described_as_another_one_with_changes(tmp_path, monkeypatch):
    conf = shutil.copytree(REPO / "conf", tmp_path / "conf")
    (conf / "backbone" / "mine.yaml").write_text("defaults: [sd3_medium, _self_]\nmodel: {path: /models/mine}\nreadout: {sigma: 0.4}\n")
    monkeypatch.setattr(presets, "conf_dir", lambda: conf)
    mine, other = Preset.named("mine"), Preset.named("sd3_medium")
    assert "mine" in names() and (mine.path, mine.readout["sigma"]) == ("/models/mine", 0.4)
    assert (mine.adapter, mine.expert, mine.merging, mine.options) == (other.adapter, other.expert, other.merging, other.options)


@pytest.mark.parametrize("group", ["backbone", "callbacks", "data"])
def test_what_the_files_of_a_group_share_is_no_choice_of_it(group, tmp_path):
    assert {file.stem for file in (REPO / "conf").glob("*.yaml")} == SHARED | {"train", "evaluate", "analyze", "check"}
    with pytest.raises(MissingConfigException) as error:
        compose_config("train", tmp_path, f"{group}={group}")
    assert error.value.options and not SHARED & set(error.value.options)


def test_an_untrained_model_is_no_preset():
    assert OmegaConf.load(REPO / "conf" / "backbone" / "tiny_sd3_untrained.yaml").model and "tiny_sd3_untrained" not in names()


def test_a_preset_is_a_pretrained_model_whatever_its_file_mentions(tmp_path, monkeypatch):
    conf = shutil.copytree(REPO / "conf", tmp_path / "conf")
    (conf / "backbone" / "mine.yaml").write_text("# not from_scratch\ndefaults: [sd3_medium, _self_]\n")
    (conf / "backbone" / "wider.yaml").write_text("defaults: [tiny_sd3_untrained, _self_]\n")
    monkeypatch.setattr(presets, "conf_dir", lambda: conf)
    assert "mine" in names() and "wider" not in names() and "tiny_sd3_untrained" not in names()


@pytest.mark.parametrize(("scheduler", "name"), [({"shift": 6.0}, "z_image"), ({"shift": 3.0}, "z_image_turbo"), ({}, "z_image")])
def test_what_has_one_transformer_is_told_apart_by_its_scheduler(scheduler, name):
    """A model that was trained on with another schedule is still one of its kind."""
    config = {"n_layers": 30, "dim": 3840, "scheduler": scheduler}
    assert Preset.recognised("this", "ZImagePipeline", config).name == name


def test_a_scheduler_alone_makes_no_model():
    config = {"n_layers": 30, "dim": 64, "scheduler": {"shift": 3.0}}
    with pytest.raises(UserError, match=r"another size than those that are known \(z_image, z_image_turbo\)"):
        Preset.recognised("this", "ZImagePipeline", config)

"""What validation logs about the images of a model of the toy world."""

import csv
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from seg4diff.backbones.lora import LoraSpec, add_lora
from seg4diff.commands.run import train
from seg4diff.tiny.generation import ToyGeneration
from tests.runs import QUICK, SMALL_RUN, compose_config, overrides


@pytest.fixture
def validate(backbone):
    """Runs a validation of the small model; returns what it logs."""
    callback = ToyGeneration(count=2, seeds=1, seed=1, steps=1, guidance=1.0, size=(32, 48), at_once=2)
    backbone.sample = MagicMock(wraps=backbone.sample)

    def validate():
        module = SimpleNamespace(backbone=backbone, log_dict=MagicMock())
        callback.on_validation_epoch_end(None, module)
        return module.log_dict.call_args.args[0]

    return validate


def test_the_base_model_of_an_adapter_is_drawn_once(validate, backbone):
    add_lora(backbone, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), 1, seed=0)
    first, second = validate(), validate()
    assert first == second and {"val/base/presence", "val/lora/presence"} <= first.keys()
    assert backbone.sample.call_count == 3


def test_a_model_without_an_adapter_changes_and_is_drawn_each_time(validate, backbone):
    assert {key.rpartition("/")[0] for key in {**validate(), **validate()}} == {"val/base"}
    assert backbone.sample.call_count == 2


def test_a_training_logs_base_and_lora_at_every_validation(assets, world, tmp_path):
    small = ["callbacks=generation", "callbacks.generation.count=2", "callbacks.generation.size=[32,32]"]
    metrics = train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *QUICK, *small))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/miou"]]
    assert len(rows) == 2 and all(row[f"val/{variant}/ground"] for row in rows for variant in ("base", "lora"))
    assert 0 <= metrics["val/lora/presence"] <= 1

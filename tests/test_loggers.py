"""What a run has found is read back from every logger: the CSV table, TensorBoard's event files, and what wandb is given."""

import csv
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import wandb
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg4diff.commands.run import evaluate, train
from seg4diff.commands.trainers import make_trainer
from seg4diff.evaluation.report import numbers
from seg4diff.loggers import finished, log_figures, wandb_logger
from tests.conftest import REPO
from tests.runs import SMALL_RUN, compose_config, overrides

PROMISED = {f"{name}/{end}" for name in ("base", "lora", "gain") for end in ("miou", "miou_low", "miou_high")}
PROMISED |= {f"miou_per_block/{block}" for block in range(4)} | {"base/flow_loss", "lora/flow_loss", "baseline/random", "upper_bound"}


def rows_of_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0}).Reload()


class RecordingWandb:
    """Stands in for `wandb.init`: the runs that it gives keep what they are told."""

    def __init__(self) -> None:
        self.runs: list[MagicMock] = []

    def init(self, **options) -> MagicMock:
        run = MagicMock(id=options["id"], options=options)
        self.runs.append(run)
        return run

    def logged(self) -> dict:
        """The last value of everything that the only run was told."""
        (run,) = self.runs
        return {key: value for call in run.log.call_args_list for key, value in call.args[0].items()}


@pytest.fixture(scope="module")
def recorded(assets, world, tmp_path_factory):
    """A training with its test, and an evaluation of its LoRA, with every logger: folder, metrics and the stand-in for wandb of each."""
    folder, found = tmp_path_factory.mktemp("logged"), {}
    arguments = [*overrides(assets, world), "logger=all", "trainer.accelerator=cpu"]
    small = [*SMALL_RUN, "trainer.max_steps=2", "model.lr=0.02", "callbacks.samples=null", "logger.wandb.log_lora=true"]
    commands = {"train": (train, small), "evaluate": (evaluate, [f"ckpt={folder / 'train'}"])}
    with pytest.MonkeyPatch.context() as patch:
        for name, (command, more) in commands.items():
            stand_in = RecordingWandb()
            patch.setattr(wandb, "init", stand_in.init)
            metrics = command(compose_config(name, folder / name, *arguments, *more))
            found[name] = SimpleNamespace(folder=folder / name, metrics=metrics, wandb=stand_in)
    return found


@pytest.fixture(params=["train", "evaluate"])
def run(request, recorded):
    return recorded[request.param]


def test_the_csv_holds_the_test_in_one_row(run):
    (row,) = [row for row in rows_of_csv(run.folder) if row.get("upper_bound")]
    assert row.keys() >= PROMISED
    assert all(float(row[key]) == numbers(run.metrics)[key] for key in PROMISED)


def test_tensorboard_holds_the_test_once(run):
    seen = events(run.folder)
    assert set(seen.Tags()["scalars"]) >= PROMISED
    assert all(len(seen.Scalars(key)) == 1 for key in PROMISED)
    assert all(seen.Scalars(key)[0].value == pytest.approx(numbers(run.metrics)[key]) for key in PROMISED)


def test_wandb_is_given_the_test(run):
    logged = run.wandb.logged()
    assert all(logged[key] == numbers(run.metrics)[key] for key in PROMISED)


def test_loggers_that_take_pictures_have_the_plot_and_the_overlays(run):
    shown = {"blocks", "overlays-test"} | ({"best-median-worst"} if run.folder.name == "evaluate" else set())
    assert shown <= set(events(run.folder).Tags()["images"])
    assert all(isinstance(run.wandb.logged()[name][0], wandb.Image) for name in shown)


def test_the_lora_is_an_artifact_of_its_training_alone(recorded):
    trained, evaluated = (recorded[name].wandb.runs[0] for name in ("train", "evaluate"))
    (call,) = trained.log_artifact.call_args_list
    assert "pytorch_lora_weights.safetensors" in call.args[0].manifest.entries
    assert call.args[0].type == "lora" and not evaluated.log_artifact.called


def test_a_run_of_wandb_that_is_offline_takes_figures_and_the_lora(tmp_path):
    logger = wandb_logger(save_dir=str(tmp_path), project="test", name="one", group=None, offline=True, log_lora=True)
    (tmp_path / "last-lora").mkdir()
    (tmp_path / "last-lora" / "weights.safetensors").write_bytes(b"weights")
    logger.after_save_checkpoint(SimpleNamespace(last_model_path=str(tmp_path / "last.ckpt"), best_model_path=""))
    with finished([logger]):
        log_figures([logger], {"base/miou": 0.5}, 3)
        assert logger.experiment.summary["base/miou"] == 0.5 and logger.experiment.summary["trainer/global_step"] == 3
        kept = MagicMock(wraps=logger.experiment.log_artifact)
        logger.experiment.log_artifact = kept
        logger.finalize("success")
        logger.finalize("success")
    assert [call.args[0].name for call in kept.call_args_list] == [f"lora-{logger.version}"], "once"


def test_figures_without_a_value_are_left_out():
    metrics = {"base/miou": 0.5, "gain/miou": float("nan"), "lora/miou": None, "protocol": "oracle", "miou_per_block": {3: 0.5, 4: None}}
    assert numbers(metrics) == {"base/miou": 0.5, "miou_per_block/3": 0.5}


@pytest.mark.parametrize(("typed", "group"), [([], "ranks"), (["logger.wandb.group=mine"], "mine")])
def test_the_runs_of_a_sweep_are_one_group(typed, group, tmp_path, monkeypatch):
    stand_in = RecordingWandb()
    monkeypatch.setattr(wandb, "init", stand_in.init)
    for mode, expected in ((RunMode.MULTIRUN, group), (RunMode.RUN, (typed and "mine") or None)):
        arguments = ["logger=wandb", "trainer=cpu", f"paths.output_dir={tmp_path}", f"hydra.sweep.dir={tmp_path}/ranks"]
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            config = compose("train", [*arguments, *typed], return_hydra_config=True)
        with open_dict(config):
            config.hydra.mode = mode
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        assert make_trainer(config).logger.experiment.options["group"] == expected

"""train.py and evaluate.py, called in this process."""

import json

import lightning as L
import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from seg4diff.backbones.lora import lora_weights
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import own_device
from seg4diff.commands.run import build_all, build_model, encode, evaluate, record, train
from seg4diff.commands.trainers import build
from seg4diff.training.checkpoints import read_checkpoint
from tests.conftest import REPO
from tests.runs import SMALL_RUN, compose_config, overrides

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
LOUD = ["logger=all", "model.lr=0.02", "callbacks.checkpoint.every_n_train_steps=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, assets, world):
    """A finished run: its folder and its metrics."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *LOUD))


def test_metrics_hold_what_is_promised(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text())["base/miou"] == metrics["base/miou"]
    promised = {"base/miou", "lora/miou", "base/flow_loss", "lora/flow_loss", "expert_layer", "seed", "miou_per_block"}
    assert promised <= metrics.keys()
    assert list(metrics["miou_per_block"]) == [0, 1, 2, 3]
    assert metrics["miou_per_block"][1] == metrics["base/miou"]
    assert metrics["lora/flow_loss"] != metrics["base/flow_loss"], "the adapter had no effect"


def test_run_folder_is_complete(finished):
    folder, _ = finished
    names = ["config.yaml", "provenance.json", "per-class.csv", "blocks.png", "csv/version_0/metrics.csv", "tensorboard", "wandb"]
    names += ["checkpoints/last.ckpt", "checkpoints/last-lora/pytorch_lora_weights.safetensors"]
    names += [f"pictures/{kind}-{step:06d}.png" for kind in ("samples", "overlays") for step in (0, 2, 4)]
    assert not [name for name in names if not (folder / name).exists()]


def test_checkpoint_holds_the_adapter_alone(finished):
    checkpoint = read_checkpoint(finished[0] / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 4 and checkpoint["optimizer_states"]
    assert set(checkpoint["state_dict"]) == {
        f"backbone.transformer.transformer_blocks.1.attn.{target}.lora_{side}.default.weight" for target in TARGETS for side in "AB"
    }


def test_lora_folder_gives_the_same_images_in_plain_diffusers(finished, assets):
    folder, _ = finished
    from seg4diff.backbones.sd3 import SD3Backbone

    lora = folder / "checkpoints" / "last-lora"
    ours = SD3Backbone.from_pretrained(path=str(assets / "tiny-sd3"), t5_length=0)
    ours.load_lora(lora)
    plain = StableDiffusion3Pipeline.from_pretrained(assets / "tiny-sd3", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32)
    prompts = ["an apple", ""]
    options = {"guidance_scale": 3.0, "num_inference_steps": 2, "height": 32, "width": 32, "max_sequence_length": 0}

    def draw():
        noise = [torch.Generator().manual_seed(7 + k) for k in range(len(prompts))]
        return [np.asarray(image, dtype=int) for image in plain(prompts, **options, generator=noise).images]

    before = draw()
    plain.load_lora_weights(lora)
    sampled = ours.sample(prompts, seeds=[7, 8], steps=2, guidance=3.0, size=(32, 32))
    for image, expected, base in zip(sampled, draw(), before, strict=True):
        assert (np.asarray(image, dtype=int) == expected).all()
        assert abs(expected - base).max() > 1


def test_frozen_weights_are_bit_unchanged(tmp_path, assets, world):
    config = compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, "~evaluation", "validate_first=false", "~callbacks")
    (data,), module = build_all([config.data], config.model)
    trainer = instantiate(config.trainer, logger=False, _convert_="all")
    trainer.fit(module, data)
    fresh = build(config.backbone.model)
    trained = {name.replace(".base_layer", ""): weight for name, weight in module.backbone.state_dict().items()}
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, trained[name]), name
    moved = [name for name, weight in trained.items() if ".lora_B" in name and weight.abs().max() > 0]
    assert len(moved) == len(TARGETS)


def test_a_run_without_loggers(tmp_path, assets, world):
    quiet = ["logger=none", "~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null"]
    metrics = train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *quiet))
    assert metrics["steps"] == 4 and not (tmp_path / "csv").exists()


class StopAfterBatch(L.Callback):
    """Stands in for a SIGTERM that arrives while this batch is computed."""

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if batch_idx == self._batch:
            trainer._signal_connector.received_sigterm = True


def fit(tmp_path, assets, world, *arguments, callbacks=(), ckpt_path=None):
    """Train the small model; returns its adapter. The checkpoint callback would write no file by itself before step 50."""
    config = compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, "trainer.accumulate_grad_batches=2", *arguments)
    (data,), module = build_all([config.data], config.model)
    callbacks = [build(config.callbacks.checkpoint), *callbacks]
    trainer = instantiate(config.trainer, logger=False, callbacks=callbacks, _convert_="all", enable_progress_bar=False)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return lora_weights(module.backbone)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, assets, world):
    """The adapter of a run that nothing stops."""
    return fit(tmp_path_factory.mktemp("uninterrupted"), assets, world)


@pytest.mark.parametrize(("batch", "saved"), [(2, 1), (3, 2), (4, 2)])
def test_a_stop_within_an_accumulated_step_continues_at_a_whole_one(batch, saved, uninterrupted, tmp_path, assets, world):
    with pytest.raises(SIGTERMException):
        fit(tmp_path, assets, world, callbacks=[StopAfterBatch(batch)])
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == saved
    resumed = fit(tmp_path, assets, world, ckpt_path=last)
    assert all(torch.equal(resumed[name], weight) for name, weight in uninterrupted.items())


def test_a_finished_run_can_be_extended(tmp_path, assets, world):
    before = fit(tmp_path, assets, world)
    after = fit(tmp_path, assets, world, "trainer.max_steps=6", ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert not torch.equal(next(iter(before.values())), next(iter(after.values())))


def test_evaluate_reads_a_run_and_finds_the_same_scores(finished, tmp_path, assets, world):
    folder, metrics = finished
    (folder / "config-earlier-1.yaml").write_text("expert_layer: 2\n")  # of a start that was given up
    report = evaluate(compose_config("evaluate", tmp_path, f"ckpt={folder}", "trainer.accelerator=cpu"))
    for name in ("base/miou", "lora/miou", "lora/flow_loss", "baseline/random", "upper_bound"):
        assert report[name] == pytest.approx(metrics[name], rel=1e-6)


@pytest.mark.parametrize("protocol", ["oracle", "vocabulary"])
def test_evaluate_base_under_both_protocols(protocol, tmp_path, assets, world, capsys):
    config = compose_config("evaluate", tmp_path, "ckpt=base", *overrides(assets, world), f"protocol={protocol}", "split=validation")
    report = evaluate(config)
    assert "lora/miou" not in report and report["images"] == 6
    assert {"oracle": "oracle prompts", "vocabulary": "full-vocabulary prompts"}[protocol] in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["oracle", "vocabulary"])
def test_training_and_evaluation_from_a_full_cache_load_no_encoder_and_end_alike(protocol, tmp_path, assets, world, monkeypatch):
    arguments = [*overrides(assets, world), *SMALL_RUN, "callbacks.samples=null", "model.lr=0.02", f"protocol={protocol}"]
    cached = [*arguments, f"runtime.cache={tmp_path}/cache"]
    plain = train(compose_config("train", tmp_path / "plain", *arguments))
    held = encode(compose_config("train", tmp_path / "encode", *cached))
    assert held["image"] == 16 + 6 + 7

    def refuse(self, *names):
        raise AssertionError(f"the encoders {names} were asked for something that encoding left out")

    monkeypatch.setattr(PipelineBackbone, "_encoding", refuse)
    fast = train(compose_config("train", tmp_path / "cached", *cached))
    for name in ("train/loss", "val/loss", "base/miou", "lora/miou", "lora/flow_loss"):
        assert fast[name] == pytest.approx(plain[name], rel=1e-4), name
    report = evaluate(compose_config("evaluate", tmp_path / "again", f"ckpt={tmp_path}/cached", "trainer.accelerator=cpu"))
    assert report["lora/miou"] == pytest.approx(fast["lora/miou"], rel=1e-6)


def test_every_experiment_composes_for_every_backbone(tmp_path):
    backbones = [file.stem for file in (REPO / "conf" / "backbone").glob("*.yaml") if "untrained" not in file.stem]
    for experiment in ("quickstart", "coco_lora", "sa1b_lora"):
        for backbone in backbones:
            config = compose_config("train", tmp_path, f"experiment={experiment}", f"backbone={backbone}")
            resolved = OmegaConf.to_container(config, resolve=True)
            runtime = resolved["model"]["backbone"]["runtime"]
            assert runtime["dtype"] == "auto" and runtime["preferred"] == config.backbone.dtype
            assert resolved["model"]["expert_layer"] == config.backbone.expert_layer


@pytest.mark.parametrize("file", sorted((REPO / "conf" / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_composes_and_builds_with_the_small_model(file, tmp_path, assets):
    from seg4diff.commands.trainers import open_trainer

    swap = [] if file.stem.startswith("toyworld") else ["backbone=tiny_sd3", "backbone.expert_layer=1"]
    config = compose_config("train", tmp_path, f"experiment={file.stem}", *swap, f"paths.assets_dir={assets}", "trainer.precision=32-true")
    config.trainer.accelerator = "cpu"
    module = build_model(config.model, build(config.data))
    assert sum(weight.numel() for weight in module.parameters() if weight.requires_grad) > 0
    with open_trainer(config) as trainer:
        assert trainer.max_steps == config.trainer.max_steps


def test_the_dtype_that_was_taken_is_in_the_report_and_auto_in_the_config(assets, world, tmp_path):
    """So that an evaluation on another machine chooses again."""
    own = ["backbone.dtype=float16", "backbone.precision=16-mixed", "trainer.precision=auto", "trainer.accelerator=cpu"]
    config = compose_config("evaluate", tmp_path, *overrides(assets, world), "ckpt=base", "split=validation", *own)
    config.runtime.dtype = "auto" if own_device() == "cpu" else "float32"  # a machine with an accelerator has to name that of its CPU
    report = evaluate(config)
    assert report["dtype"] == "float32" and report["precision"] == "32-true"
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved.runtime.dtype == config.runtime.dtype and saved.runtime.preferred == "float16" and saved.trainer.precision == "auto"


def test_a_kill_while_the_configuration_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    config = compose_config("train", tmp_path)
    record(config, tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("seg4diff.commands.run.write_text", kill)
        with pytest.raises(KeyboardInterrupt):
            record(config, tmp_path)
    assert (tmp_path / "config.yaml").read_bytes() == before == (tmp_path / "config-earlier-1.yaml").read_bytes()
    config.seed = 7
    record(config, tmp_path)
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 7 and (tmp_path / "config-earlier-2.yaml").read_bytes() == before

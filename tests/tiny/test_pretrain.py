"""Pretraining of a small model in a small world, by the configuration of the shipped one."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from seg4diff.commands.run import train
from seg4diff.data.sample import Vocabulary
from seg4diff.errors import UserError
from seg4diff.flow import logit_normal
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.segmentation.readout import Readout
from seg4diff.tiny.pretrain import Denoiser, PretrainModule
from tests.hosts import random_sd3
from tests.runs import compose_config

SMALL = [
    "experiment=toyworld_pretrain",
    "data.source.side=32",
    "data.source.sizes={validation: 3}",
    "data.scenes=12",
    "data.batch_size=2",
    "data.num_workers=0",
    "backbone.model.transformer.num_layers=2",
    "backbone.model.transformer.attention_head_dim=8",
    "backbone.model.transformer.num_attention_heads=2",
    "backbone.model.transformer.caption_projection_dim=16",
    "backbone.model.transformer.pos_embed_max_size=12",
    "callbacks.generation.count=7",
    "callbacks.generation.seeds=1",
    "callbacks.generation.steps=1",
    "callbacks.generation.size=[32,32]",
    "callbacks.samples.prompts=[star]",
    "callbacks.samples.steps=1",
    "callbacks.samples.size=[32,32]",
    "model.warmup_steps=1",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.accelerator=cpu",
]


@pytest.fixture
def pretrain(assets, world, tmp_path):
    def run(name, *arguments):
        paths = [f"paths.assets_dir={assets}", f"paths.data_dir={world}"]
        train(compose_config("train", tmp_path / name, *SMALL, *paths, *arguments))
        return tmp_path / name

    return run


def weights(run):
    return load_file(run / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_a_continued_run_ends_with_the_same_weights(pretrain):
    whole = pretrain("whole", "callbacks.checkpoint.every_n_train_steps=2", "callbacks.checkpoint.save_top_k=-1")
    parts = pretrain("parts", f"ckpt_path={whole}/checkpoints/step-000002.ckpt")
    assert all((weights(parts)[name] == weight).all() for name, weight in weights(whole).items())


def test_each_validation_says_what_is_drawn_and_what_every_block_grounds(pretrain):
    with (pretrain("run") / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/flow"]]
    assert [row["step"] for row in rows] == ["1", "3"]  # the number of the last step, as Lightning counts
    for row in rows:
        assert all(row[f"val/{name}"] for name in ("base/presence", "base/counting", "miou_per_block/0", "miou_per_block/1"))


def test_the_pipeline_holds_the_moving_average(pretrain):
    last, first = (weights(pretrain(name, f"callbacks.average.decay={decay}")) for name, decay in (("last", 0), ("slow", 0.9)))
    assert any((last[name] != first[name]).any() for name in last)


def test_weights_are_trained_on(pretrain):
    first = pretrain("first")
    on = pretrain("on", f"backbone.model.start={first}/pipeline", "model.muon_lr=1e-9", "model.lr=1e-9", "trainer.max_steps=2")
    for name, weight in weights(first).items():
        torch.testing.assert_close(weights(on)[name], weight)


def test_weights_of_another_architecture_are_refused(pretrain):
    first = pretrain("first", "trainer.max_steps=2")
    with pytest.raises(UserError, match=r"the transformer of .*start=.* has another architecture"):
        pretrain("on", f"backbone.model.start={first}/pipeline", "backbone.model.transformer.num_layers=3")


def pretraining(backbone, **values):
    sigma, readout = logit_normal(mean=0.0, std=1.0), Readout(sigma=0.3, scores="joint", normalisation="none", seed=0)
    rates = {"muon_lr": 1e-2, "lr": 1e-3, "weight_decay": 0.0, "warmup_steps": 1, "decay_share": 0.2, "caption_dropout": 0.0, "seed": 0}
    words = Vocabulary(("cone", "sand"))
    return PretrainModule(backbone=backbone, vocabulary=words, readout=readout, sigma=sigma, **rates | values, save_to="unused")


@pytest.mark.parametrize("name", ["muon_lr", "lr", "weight_decay", "warmup_steps", "decay_share", "caption_dropout", "seed"])
def test_values_below_what_they_may_be(name):
    with pytest.raises(UserError, match=f"`{name}` must be .*, found -1"):
        pretraining(None, **{name: -1})


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 12, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0.3, 0.8])


def test_a_caption_that_does_not_fit_is_cut_after_a_word(drawn):
    latents, noise, sigma = drawn
    backbone = random_sd3(t5_length=0)
    module = pretraining(backbone)
    caption = "a small cone, a leaf and a fish on the sand at a dark apple; " * 2 + "a large brick"
    cut = cut_to_fit(caption, backbone.fits)
    assert cut != caption
    long, short = (module.flow_loss(latents, [text, "sand"], noise, sigma) for text in (caption, cut))
    assert torch.equal(long, short)


def test_token_ids_give_the_velocity_of_their_prompts(drawn):
    latents, _, sigma = drawn
    backbone, prompts = random_sd3(t5_length=0), ["a cone on sand", ""]
    velocity = backbone.predict_velocity(latents, sigma, backbone.encode_text(prompts))
    torch.testing.assert_close(Denoiser(backbone)(latents, sigma, backbone.token_ids(prompts)), velocity)


def test_loader_processes_draw_the_same_scenes(pretrain):
    here, there = (weights(pretrain(str(count), f"data.num_workers={count}", "trainer.max_steps=2")) for count in (0, 2))
    assert all(torch.equal(there[name], weight) for name, weight in here.items())

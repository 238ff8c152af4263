"""evaluate.py evaluation=generation: base and LoRA of the shipped model on a few small images."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.commands.measure import evaluate_generation
from seg4diff.commands.run import train
from seg4diff.errors import UserError
from tests.conftest import REPO
from tests.runs import compose_config, overrides

SMALL = ["prompts=3", "seeds=2", "steps=2", "size=[32,48]", "at_once=2", "resamples=50"]


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """Folder of an adapter that changes images."""
    backbone = SD3Backbone.from_pretrained(path=str(REPO / "assets" / "tiny-sd3"), t5_length=0)
    add_lora(backbone, LoraSpec(blocks="all", rank=2, alpha=2, targets=["to_q", "to_v"]), 3, seed=0)
    for number, weight in enumerate(lora_weights(backbone).values()):
        weight.data = 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    folder = tmp_path_factory.mktemp("lora")
    backbone.save_lora(folder)
    return folder


@pytest.fixture(scope="module")
def measure(tmp_path_factory, lora):
    """Measures into a folder; returns the content of metrics.json."""

    def measure(folder, *arguments, ckpt=lora):
        small = ["evaluation=generation", "trainer.accelerator=cpu", *(f"evaluation.{value}" for value in SMALL)]
        return evaluate_generation(compose_config("evaluate", folder, *small, *arguments, f"ckpt={ckpt}"))

    return measure


@pytest.fixture(scope="module")
def whole(tmp_path_factory, measure):
    """A finished measurement: its folder and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, measure(folder, "logger=tensorboard")


@pytest.fixture
def stopped(whole, tmp_path):
    """A copy of it that was killed within its fourth line."""
    lines = (whole[0] / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    shutil.copy(whole[0] / "answers.json", tmp_path)
    return tmp_path


def test_a_folder_holds_table_plot_examples_and_every_answer(whole):
    folder, metrics = whole
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row["variant"] for row in rows] == ["base"] * 6 + ["lora"] * 6 and len({row["seed"] for row in rows}) == 6
    presence = {variant: [row["answers"]["presence"] for row in rows if row["variant"] == variant] for variant in ("base", "lora")}
    assert metrics["base/presence"] == pytest.approx(sum(presence["base"]) / 6)
    gains = [after - before for before, after in zip(*presence.values(), strict=True)]
    assert metrics["gain/presence"] == pytest.approx(sum(gains) / 6)
    with (folder / "categories.csv").open(newline="") as file:
        assert "ground" in {row["category"] for row in csv.DictReader(file)}
    assert Image.open(folder / "examples.png").height > Image.open(folder / "examples.png").width / 3, "two rows of three images"


def test_every_figure_and_picture_reaches_the_loggers(whole):
    folder, metrics = whole
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    logged = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert logged["gain/presence_high"] == pytest.approx(metrics["gain/presence_high"])
    assert set(events.Tags()["images"]) == {"generation", "examples"}


def test_a_stopped_measurement_ends_like_one_that_was_not(whole, stopped, measure):
    assert measure(stopped) == whole[1]
    assert (stopped / "answers.jsonl").read_bytes() == (whole[0] / "answers.jsonl").read_bytes()


def test_at_scale_zero_a_lora_adds_exactly_nothing_to_the_base_model_of_another_folder(whole, measure, tmp_path, capsys):
    metrics = measure(tmp_path, "evaluation.lora_scale=0", f"evaluation.base_from={whole[0]}")
    gained = [value for key, value in metrics.items() if key.startswith("gain/")]
    assert gained and set(gained) == {0.0}
    assert "LoRA scale 0" in capsys.readouterr().out


def test_the_base_model_of_another_folder_is_not_drawn_again(whole, stopped, measure, tmp_path):
    row = '{"variant": "base", "prompt": %s, "seed": %d, "answers": {"ground": 0.25}}\n'
    own = [json.loads(line) for line in (whole[0] / "answers.jsonl").read_text().splitlines()[:6]]
    (stopped / "answers.jsonl").write_text("".join(row % (json.dumps(one["prompt"]), one["seed"]) for one in own))
    metrics = measure(tmp_path / "other", f"evaluation.base_from={stopped}", ckpt="base")
    assert metrics["base/ground"] == 0.25 and "gain/ground" not in metrics


def test_answers_of_other_settings_are_refused_and_nothing_is_written_over(stopped, measure):
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    with pytest.raises(UserError, match="holds answers with steps 2, and here it is 3: choose another hydra"):
        measure(stopped, "evaluation.steps=3")
    assert before.items() <= {file.name: file.read_bytes() for file in stopped.iterdir()}.items()
    assert not (stopped / "config.yaml").exists()


def test_perturbed_guidance_is_measured_and_scale_0_is_the_model_without_it(whole, measure, tmp_path):
    """The block is the expert, if none is named; what was measured without guidance serves at scale 0."""
    guided = measure(tmp_path / "guided", "evaluation.perturbed_guidance=40.0", ckpt="base")
    assert guided["perturbed_guidance"] == 40 and json.loads((tmp_path / "guided" / "answers.json").read_text())["perturbed_block"] == 1
    plain = measure(tmp_path / "plain", "evaluation.perturbed_guidance=0.0", f"evaluation.base_from={whole[0]}", ckpt="base")
    assert {key: value for key, value in whole[1].items() if key.startswith("base/")}.items() <= plain.items()
    with pytest.raises(UserError, match="holds answers with perturbed_guidance null, and here it is 2"):
        measure(tmp_path / "other", "evaluation.perturbed_guidance=2", f"evaluation.base_from={whole[0]}", ckpt="base")
    with pytest.raises(UserError, match="block 8 does not exist: this model has 8 joint-attention blocks, 0 to 7"):
        measure(tmp_path / "odd", "evaluation.perturbed_guidance=2", "evaluation.perturbed_block=8", ckpt="base")


def test_a_model_that_was_replaced_in_its_place_is_another_one(assets, measure, tmp_path):
    own = shutil.copytree(assets, tmp_path / "assets")
    small = [f"paths.assets_dir={own}", "evaluation.prompts=1", "evaluation.seeds=1", "evaluation.steps=1", "expert_layer=1"]
    measure(tmp_path / "first", *small, ckpt="base")
    shutil.copyfile(next((own / "tiny-sd3" / "transformer").glob("*.safetensors")), tmp_path / "other")
    (tmp_path / "other").replace(next((own / "tiny-sd3" / "transformer").glob("*.safetensors")))
    with pytest.raises(UserError, match="holds answers with weights"):
        measure(tmp_path / "second", *small, f"evaluation.base_from={tmp_path}/first", ckpt="base")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("evaluation.prompts=0", "the number of prompts must be in 1.."),
        ("evaluation.seeds=0", "evaluation.seeds must be at least 1, found 0"),
        ("evaluation.steps=0", "evaluation.steps must be a whole number from 1, found 0"),
        ("evaluation.perturbed_guidance=-1", "evaluation.perturbed_guidance must be a number from 0, found -1"),
        ("evaluation.perturbed_guidance=much", "evaluation.perturbed_guidance must be a number, found 'much'"),
        ("evaluation.at_once=0", "evaluation.at_once must be a whole number from 1, found 0"),
        ("evaluation.resamples=0", "evaluation.resamples must be at least 1, found 0"),
        ("evaluation.size=[32,33]", "33"),
        ("evaluation.base_from=/nowhere", "there are no answers in /nowhere: evaluation.base_from must be the folder"),
        ("data=voc20", "data has no effect on images that are drawn"),
        ("split=validation", "split has no effect on images that are drawn"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(argument, sentence, measure, tmp_path):
    with pytest.raises(UserError) as error:
        measure(tmp_path, argument, ckpt="base")
    assert sentence in str(error.value) and not (tmp_path / "metrics.json").exists()


def test_several_processes_are_refused(measure, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="images are measured in one process, and here are 2"):
        measure(tmp_path)


def test_a_training_does_not_end_in_it(assets, world, tmp_path):
    with pytest.raises(UserError, match="images are measured after the training: leave evaluation= out"):
        train(compose_config("train", tmp_path, *overrides(assets, world), "evaluation=generation"))

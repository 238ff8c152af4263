"""seg4diff score: folders of images, random networks, a table with intervals."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seg4diff.commands.cli import app
from seg4diff.commands.score import Weights, score_folder
from seg4diff.errors import UserError
from seg4diff.evaluation.judges.geneval import Rules
from seg4diff.evaluation.judges.networks import Clip, CLIPScore
from tests import judges

ROWS = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a photo of a red apple"},
]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return Weights(
        detector=judges.make_owl(folder / "owl"),
        clip=judges.make_clip(folder / "clip"),
        pickscore=judges.make_clip(folder / "pick", seed=1),
        vqa=judges.make_llava(folder / "llava"),
        dino=judges.make_dino(folder / "dino"),
        fid=judges.make_dino(folder / "fid", seed=1),
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two folders of another program in GenEval's layout: base and LoRA, two images of each prompt."""
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for name in ("base", "lora"):
        for index, row in enumerate(ROWS):
            own = folder / name / f"{index:05}"
            (own / "samples").mkdir(parents=True)
            (own / "metadata.jsonl").write_text(json.dumps(row))
            for number in range(2):
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(own / "samples" / f"{number:05}.png")
    return folder


@pytest.fixture
def score(drawn, tmp_path):
    def score(weights, **options):
        out = score_folder("geneval", drawn / "lora", weights=weights, rules=Rules(), out=tmp_path / "out", device="cpu", **options)
        return json.loads((out / "scores.json").read_text())

    return score


def test_all_judges_and_the_base(score, drawn, networks, capsys, tmp_path):
    report = score(networks, base=drawn / "base", references=drawn / "base" / "00000" / "samples")
    assert list(report["this"]) == ["CLIPScore", "PickScore", "VQAScore", "GenEval", "CLIP-I", "DINO"]
    assert list(report["gain"]) == ["CLIPScore", "PickScore", "VQAScore", "GenEval"]
    for metric, groups in report["gain"].items():
        for group, gain in groups.items():
            means = [report[own][metric][group]["mean"] for own in ("this", "base")]
            assert gain["mean"] == pytest.approx(means[0] - means[1]) and gain["low"] <= gain["mean"] <= gain["high"]
    assert set(report["this"]["GenEval"]) == {"single_object", "colors", "overall"} and set(report["fid"]) == {"base", "this"}
    assert report["weights"]["clip"] == networks.clip and report["rules"]["counting_threshold"] == 0.9
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").open()))
    assert [(row["folder"], row["group"], row["number"]) for row in rows[3:5]] == [("this", "colors", "1"), ("base", "single_object", "0")]
    assert "difference" in capsys.readouterr().out


def test_the_mean_is_that_of_the_images(score, drawn, networks):
    report = score(Weights(clip=networks.clip))["this"]["CLIPScore"]["single_object"]
    images = [Image.open(file) for file in sorted((drawn / "lora/00000/samples").iterdir())]
    values = CLIPScore(Clip(networks.clip, torch.device("cpu")))(images, ["a photo of a dog"] * 2)
    assert report["mean"] == pytest.approx(sum(values) / 2, abs=1e-4) and (report["prompts"], report["images"]) == (1, 2)


def test_what_is_not_named_is_skipped_with_one_sentence(score, networks, caplog):
    with caplog.at_level("INFO"):
        report = score(Weights(detector=networks.detector))
    assert list(report["this"]) == ["GenEval"] and list(report["this"]["GenEval"]) == ["single_object"]
    skipped = [record.message for record in caplog.records if " skipped: " in record.message]
    assert skipped == [
        "GenEval's prompts with colours are skipped: name a CLIP model with --clip.",
        "CLIPScore is skipped: name a CLIP model with --clip.",
        "PickScore is skipped: name a CLIP model trained on preferences with --pickscore.",
        "VQAScore is skipped: name a vision-language model with --vqa.",
    ]


def test_nothing_named_and_nothing_overwritten(score, networks):
    with pytest.raises(UserError, match="nothing can be measured: name weights"):
        score(Weights())
    with pytest.raises(UserError, match="nothing can be measured"):
        score(Weights(dino=networks.dino))  # there is no base to compare with
    score(Weights(clip=networks.clip))
    with pytest.raises(UserError, match="holds scores: choose another folder"):
        score(Weights(clip=networks.clip))


def test_the_command(drawn, networks, tmp_path):
    arguments = ["score", "geneval", str(drawn / "lora"), "--detector", networks.detector, "--threshold", "0", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["rules"]["threshold"] == 0

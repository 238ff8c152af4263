"""analyze.py: the studies of a small model on a few scenes, and on images that it generates."""

import csv
import json

import pytest

from seg4diff.analysis.catalogue import STUDIES
from seg4diff.commands.analysis import analyze
from seg4diff.commands.run import evaluate
from seg4diff.errors import UserError
from seg4diff.evaluation import progress
from tests.runs import compose_config, overrides, run_script

SMALL = ["trainer.accelerator=cpu", "data.eval_batch_size=2", "examples=1"]


@pytest.fixture(scope="module")
def given(assets, world):
    return [*overrides(assets, world), *SMALL]


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """A finished analysis: its folder and the content of analysis.json."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, analyze(compose_config("analyze", folder, *given, "logger=csv"))


def values(content, study, **wanted):
    rows = content["studies"][study]["rows"]
    return {row["block"]: row["value"] for row in rows if all(row[key] == value for key, value in wanted.items())}


def tables(folder):
    return {name: (folder / f"{name}.csv").read_text() for name in STUDIES}


def test_a_folder_holds_tables_evidence_pictures_and_the_model(whole):
    folder, content = whole
    assert json.loads((folder / "analysis.json").read_text()) == content
    assert list(content["studies"]) == list(STUDIES) and content["images"] == 6
    assert set(content["skipped"]) == {"causal/similarity by CLIP", "causal/similarity by DINO"}, "no weights are named"
    assert content["finder"]["rule"] == "masks" and {row["block"] for row in content["finder"]["ranking"]} == set(range(4))
    assert content["model"]["model"].endswith("tiny-sd3") and content["settings"]["split"] == "validation"
    with (folder / "norms.csv").open(newline="") as file:
        assert {row["head"] for row in csv.DictReader(file)} == {"", "0", "1"}
    assert sorted(file.name for file in (folder / "pictures").iterdir())[0] == "empty_prompt-0.safetensors"
    assert not (folder / "progress").exists()
    assert "Prompt: " in (folder / "report.html").read_text() and (folder / "figures" / "budget.png").is_file()
    assert "segmentation/i2t/joint/minmax/miou/3" in logged(folder)


def test_the_score_of_a_block_is_that_of_an_evaluation(whole, given, tmp_path):
    report = evaluate(compose_config("evaluate", tmp_path, *given[:-1], "ckpt=base", "split=validation"))
    own = {"sigma": 0.3, "direction": "i2t", "scores": "joint", "normalisation": "minmax", "quantity": "miou"}
    assert values(whole[1], "segmentation", **own) == pytest.approx(report["miou_per_block"], abs=1e-9)
    assert values(whole[1], "segmentation", direction="random")[None] == pytest.approx(report["baseline/random"])


def test_a_stopped_analysis_goes_on(whole, given, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="stopped"):
        analyze(compose_config("analyze", tmp_path, *given, "+callbacks.stop._target_=tests.analyses.Stop"))
    with pytest.raises(UserError, match=r"holds an unfinished analysis whose settings differ"):
        analyze(compose_config("analyze", tmp_path, *given, "seed=3", "backbone.readout.sigma=0.4"))
    assert analyze(compose_config("analyze", tmp_path, *given))["studies"] == whole[1]["studies"]
    assert tables(tmp_path) == tables(whole[0])
    with pytest.raises(UserError, match="holds an analysis: choose another"):
        analyze(compose_config("analyze", tmp_path, *given))


def logged(folder):
    return next((folder / "csv").rglob("metrics.csv")).read_text().splitlines()[0].split(",")


def test_the_noise_level_of_the_readout_may_be_another_or_one_of_the_list(given, tmp_path):
    budget = [*given, "studies=[budget]", "images=1", "logger=csv"]
    same, other = (
        analyze(compose_config("analyze", tmp_path / name, *budget, argument))
        for name, argument in (("same", "backbone.readout.sigma=0.7"), ("other", "analysis.sigmas=[0.5]"))
    )
    assert [own["settings"]["analysis"]["sigmas"] for own in (same, other)] == [[0.7, 1.0], [0.5]]
    assert all("budget/i2t/mass/3" in logged(tmp_path / name) for name in ("same", "other"))


def test_weights_that_are_not_there_stop_nothing(given, tmp_path):
    trials = ["studies=[causal]", "images=1", "analysis.trials.dino=/nowhere", "analysis.trials.generated=1", "analysis.sigmas=[0.3]"]
    content = analyze(compose_config("analyze", tmp_path, *given, *trials))
    assert content["skipped"]["causal/similarity by DINO"].startswith(
        "similarity by DINO of the causal tests is skipped: there is no folder"
    )
    assert {row["quantity"] for row in content["studies"]["causal"]["rows"]} > {"velocity", "pixels"}


def test_two_processes_agree(whole, given, tmp_path):
    done = run_script("analyze.py", tmp_path, *given, "~trainer.accelerator", "trainer=ddp_cpu", "data.eval_batch_size=1")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in STUDIES:
        rows = [list(csv.DictReader((folder / f"{name}.csv").open(newline=""))) for folder in (tmp_path, whole[0])]
        for ours, theirs in zip(*rows, strict=True):
            assert float(ours.pop("value") or "nan") == pytest.approx(float(theirs.pop("value") or "nan"), rel=1e-5, abs=1e-5, nan_ok=True)
            assert ours == theirs


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("an apple on grass\n\ntwo stars\n", encoding="utf-8")
    return f"prompts={tmp_path}/prompts.txt"


def test_generated_images_need_no_data_set(given, prompts, tmp_path, caplog):
    caplog.set_level("INFO")
    arguments = [own for own in given if not own.startswith("data.")]
    content = analyze(
        compose_config(
            "analyze", tmp_path / "out", *arguments, prompts, "generation.at_once=1", "generation.steps=12", "logger=tensorboard"
        )
    )
    assert any(b"norms-heads" in file.read_bytes() for file in (tmp_path / "out").rglob("events.*")), "figures reach the loggers"
    assert content["images"] == 2 and list(content["studies"]) == ["budget", "norms", "features", "granularity", "causal"]
    assert "the study segmentation is skipped: it needs images with label maps, and these have none." in caplog.text
    assert content["settings"]["prompts"] == ["an apple on grass", "two stars"] and set(content["skipped"]) > {"affinity"}
    steps = content["settings"]["analysis"]["sigmas"]
    assert {row["sigma"] for row in content["studies"]["budget"]["rows"]} == set(steps) and steps != [0.3, 0.7, 1.0], "those of the steps"
    assert content["finder"]["rule"] == "no masks" and content["settings"]["analysis"]["trials"]["exact"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["studies=[budget,segmentatoin]"], r"studies names 'segmentatoin', which is none: did you mean segmentation\?"),
        (["studies=[]"], "studies is empty: choose from budget, norms"),
        (["images=0"], "images must be at least 1, found 0"),
        (["images=many"], "images must be a whole number or null"),
        (["examples=-1"], "examples must be at least 0, found -1"),
        (["analysis.sigmas=[0.3,1.5]"], r"analysis.sigmas must be noise levels in \[0, 1\], found \[0.3, 1.5\]"),
        (["expert_layer=9"], "block 9 does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(arguments, said, given, tmp_path):
    with pytest.raises(UserError, match=said):
        analyze(compose_config("analyze", tmp_path, *given, *arguments))
    assert not (tmp_path / "analysis.json").exists()


def test_what_prompts_cannot_be_is_said_too(given, prompts, tmp_path):
    arguments = [own for own in given if not own.startswith("data.")]

    def said(*more):
        with pytest.raises(UserError) as error:
            analyze(compose_config("analyze", tmp_path / "out", *arguments, *more))
        return str(error.value)

    (tmp_path / "blank.txt").write_text("\n  \n")
    assert said(f"prompts={tmp_path}/blank.txt").endswith("blank.txt is empty: write one prompt per line.")
    assert "there is no file of prompts" in said(f"prompts={tmp_path}/none.txt")
    assert said(prompts, "images=3") == "images has no effect on images that are generated: leave it out with prompts=."
    assert said(prompts, "studies=[affinity]").startswith("the study affinity is skipped: it needs images with label maps")

"""The report of a measurement against cases worked out by hand."""

import csv

import pytest

from seg4diff.evaluation.report import CATEGORIES, title
from seg4diff.tiny.report import GenerationReport, plot, print_report, write_table

ABOUT = {"prompts": 3, "seeds": 2, "steps": 2, "guidance": 3.0, "perturbed_guidance": None}
BASE = [[{"ground": 0.0}, {"ground": 1.0, "structure": 0.5}], [{"ground": 1.0}, {"ground": 1.0}], [{"ground": 0.0}, {"ground": 0.0}]]
LORA = [[{"ground": 1.0, "structure": 0.9}, {"ground": 1.0, "structure": 0.7}], *BASE[1:]]


@pytest.fixture
def report():
    return GenerationReport.of({"base": BASE, "lora": LORA}, resamples=5000, seed=0, lora_scale=0.5, **ABOUT)


def test_a_gain_is_that_of_images_with_the_same_prompt_and_seed(report):
    metrics = report.metrics()
    assert [metrics[f"{variant}/ground"] for variant in ("base", "lora", "gain")] == pytest.approx([3 / 6, 4 / 6, 1 / 6])
    assert metrics["gain/structure"] == pytest.approx(0.2), "without the image in which the base model shows no thing"
    assert metrics["lora/structure"] == pytest.approx(0.8)
    assert metrics["gain/ground_low"] == 0 and metrics["gain/ground_high"] == pytest.approx(0.5), (
        "all three draws are of the prompt that gains, 1 in 27 times"
    )


def test_a_base_model_alone_has_no_gain():
    alone = GenerationReport.of({"base": BASE}, resamples=10, seed=0, lora_scale=None, **ABOUT)
    assert not [key for key in alone.metrics() if key.startswith(("lora", "gain"))]
    assert plot(alone).width < plot(GenerationReport.of({"base": BASE, "lora": LORA}, 10, 0, lora_scale=1.0, **ABOUT)).width


def test_table_and_csv_show_every_category_that_was_asked_about(report, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_report(report)
    printed = capsys.readouterr().out
    assert "50.0 [0.0, 100.0]" in printed and "+16.7 [+0.0, +50.0]" in printed and "LoRA scale 0.5" in printed
    assert "ground" in printed and "counting" not in printed
    write_table(report, tmp_path / "categories.csv")
    with (tmp_path / "categories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == ["ground", "structure"]
    assert float(rows[0]["LoRA - base"]) == pytest.approx(1 / 6) and float(rows[0]["LoRA - base high"]) == pytest.approx(0.5)


def test_every_category_has_a_title_of_its_own():
    assert len({title(f"gain/{name}") for name in CATEGORIES}) == 10

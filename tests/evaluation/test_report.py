"""A report, its way through metrics.json, and what people read."""

import csv
import json
import re

import pytest
from tests.reports import GAIN, make_report

from seg4diff.disk import write_json
from seg4diff.errors import UserError
from seg4diff.evaluation.comparison import Entry, print_table
from seg4diff.evaluation.display import print_report, write_report
from seg4diff.evaluation.report import Report, numbers, read_metrics, title

BASE_ALONE = {"lora": None, "gain": None}
WORDLESS = {"protocol": "unsupervised", "matching": "one_to_one", "baseline": {"single": 0.1, "tiles": 0.2}}

TITLED = ("base", "lora", "gain", "val", "baseline", "upper_bound")


@pytest.mark.parametrize("changes", [{}, BASE_ALONE, WORDLESS], ids=["names", "base alone", "without words"])
def test_a_report_comes_back_from_its_file(changes, tmp_path):
    report = make_report(**changes)
    write_json(tmp_path / "metrics.json", report.metrics())
    assert Report.of_metrics(read_metrics(tmp_path / "metrics.json")) == report


def test_what_an_evaluation_does_not_have_has_no_key():
    metrics = make_report(**BASE_ALONE).metrics()
    assert None not in metrics.values()
    assert not [key for key in metrics if key.startswith(("lora", "gain", "matching"))]


def test_every_score_has_a_title():
    names = [*numbers(make_report().metrics()), *numbers(make_report(**WORDLESS).metrics()), "val/miou"]
    scores = [name for name in dict.fromkeys(names) if name.split("/")[0] in TITLED and not name.endswith(("_low", "_high"))]
    assert len({title(name) for name in scores}) == len(scores) == 19
    assert title("lora/flow_loss") == "LoRA flow loss" and title("baseline/tiles") == "baseline: 3 x 3 tiles"


@pytest.mark.parametrize("changes", [{}, BASE_ALONE, WORDLESS], ids=["names", "base alone", "without words"])
def test_the_table_fits_a_terminal_and_shows_every_bound(changes, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report = make_report(**changes)
    print_report(report)
    said = capsys.readouterr().out
    shown = " ".join(re.sub("[^\\w.:+-]", " ", said).split())
    for key in (*(f"baseline/{name}" for name in report.baseline), "upper_bound"):
        assert title(key).split(": ")[-1] in shown and f"{100 * report.metrics()[key]:.1f}" in shown
    assert "…" not in said and ("+12.5" in shown) == (report.gain == GAIN)


def test_several_evaluations_have_the_same_titles(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_table([Entry("a", "A", "crop", make_report()), Entry("b", "B", "crop", make_report(**WORDLESS, **BASE_ALONE))], None)
    said = capsys.readouterr().out
    assert all(word in said for word in ("LoRA", "baseline", "upper", "unsupervised, crop", "Hungarian"))


def test_the_classes_of_base_and_lora_are_side_by_side(tmp_path):
    assert write_report(make_report(), tmp_path).size[0] > 400
    with (tmp_path / "per-class.csv").open(newline="") as file:
        assert list(csv.DictReader(file))[1] == {"class": "sand", "base IoU": "0.3000", "LoRA IoU": "0.4500"}


def test_one_block_has_no_plot(tmp_path):
    assert write_report(make_report(miou_per_block={3: 0.5}), tmp_path) is None and not (tmp_path / "blocks.png").exists()


def test_figures_of_an_earlier_version_are_refused(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"base/miou": 0.5, "ceiling/miou": 0.9}))
    with pytest.raises(UserError, match=r"is of an earlier version.*evaluate that run again"):
        read_metrics(tmp_path / "metrics.json")

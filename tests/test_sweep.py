"""The summary of a sweep from runs on disk."""

import csv
import json

import pytest

from seg4diff.sweep import read_runs, summarise


@pytest.fixture
def sweep(tmp_path):
    """Two settings with two seeds each, and one run that never finished."""
    for number, (layer, seed, miou) in enumerate([(2, 0, 0.50), (2, 1, 0.54), (10, 0, 0.70), (10, 1, 0.71)]):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"- expert_layer={layer}\n- seed={seed}\n")
        metrics = {"base/miou": 0.4, "lora/miou": miou, "protocol": "oracle", "miou_per_block": {"2": 0.4, "10": 0.6}}
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "4" / ".hydra").mkdir(parents=True)
    return tmp_path


def test_finished_runs_are_read_in_order(sweep):
    runs = read_runs(sweep)
    assert [run["run"] for run in runs] == ["0", "1", "2", "3"]
    assert runs[2]["overrides"] == {"expert_layer": "10", "seed": "0"}
    assert runs[2]["figures"]["miou_block_10"] == 0.6 and "protocol" not in runs[2]["figures"]


def test_overrides_of_every_form(sweep):
    (sweep / "0" / ".hydra" / "overrides.yaml").write_text("- a=1\n- +b.c=/x/y\n- ++d=[1,2]\n- ~e\n")
    assert read_runs(sweep)[0]["overrides"] == {"a": "1", "b.c": "/x/y", "d": "[1,2]", "e": ""}


def test_a_figure_that_some_runs_lack_is_averaged_over_the_others(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    runs = read_runs(sweep)
    del runs[0]["figures"]["lora/miou"], runs[2]["figures"]["lora/miou"], runs[3]["figures"]["lora/miou"]
    summarise(runs, sweep)
    assert "54.0" in capsys.readouterr().out.splitlines()[-3]


def test_table_averages_repetitions_and_the_csv_keeps_every_run(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    summarise(read_runs(sweep), sweep)
    printed = capsys.readouterr().out
    assert "52.0 ± 2.8" in printed and "70.5 ± 0.7" in printed
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lora/miou"] for row in rows] == ["0.5", "0.54", "0.7", "0.71"]
    assert (sweep / "sweep.png").stat().st_size > 1000

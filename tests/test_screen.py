"""Names hold any sign, and people see them as they are."""

import pytest
from PIL import Image

from seg4diff.commands.sweep import summarise, summarise_folder
from seg4diff.disk import write_json
from seg4diff.evaluation.comparison import Entry, print_table, write_table
from seg4diff.screen import plain_text, screen
from tests.reports import make_report

NAMES = ["[red]", "[/]", "[bold]x[/bold]", ":cat:", "a [b] c", "[link=file]", "\\[x]", "[", "$x$", "$\\frac", "5$ and 6$", "雨 [é]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name, capsys):
    screen().print(f"class {name}")
    assert f"class {name}" in capsys.readouterr().out


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_tables_and_plots_of_benchmarks_show_titles_as_they_are(tmp_path, capsys, wide):
    entries = [Entry(name, name, "stretch", make_report()) for name in NAMES]
    print_table(entries, None)
    write_table(entries, tmp_path)
    said = capsys.readouterr().out
    assert not [name for name in NAMES if f" {name} " not in said] and "[40.0, 60.0]" in said
    assert Image.open(tmp_path / "benchmark.png").width > 100


def test_so_do_those_of_sweeps(tmp_path, capsys, wide):
    runs = [{"run": name, "overrides": {"the $x": name}, "figures": {"val/miou": 0.5}} for name in NAMES]
    summarise(runs, tmp_path)
    said = capsys.readouterr().out
    assert not [name for name in NAMES if f" {name} " not in said] and "sweep over the $x" in said
    assert Image.open(tmp_path / "sweep.png").width > 100


def test_a_figure_that_was_no_number_has_an_empty_cell(tmp_path, capsys):
    for number, miou in enumerate((0.5, float("nan"))):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"- seed={number}\n")
        write_json(tmp_path / str(number) / "metrics.json", {"val/miou": miou, "miou_per_block": {3: miou}, "lora/miou": 0.25})
    summarise_folder(tmp_path)
    assert "nan" not in capsys.readouterr().out and (tmp_path / "sweep.csv").read_text().splitlines()[2] == "1,1,,0.25,"


def test_a_dollar_sign_makes_no_formula():
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure()
        figure.subplots().set_title("$\\no$ formula")
        figure.draw_without_rendering()

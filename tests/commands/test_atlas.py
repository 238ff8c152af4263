"""`seg4diff atlas` and `seg4diff report`: files and table of stored analyses, without a model."""

import csv

import pytest

from seg4diff.commands.atlas import lay_side_by_side, redraw
from seg4diff.errors import UserError
from tests.analyses import small


@pytest.fixture
def folders(tmp_path):
    return [small(tmp_path / "one", [0.5, 2.0]), small(tmp_path / "other", [0.25, 0.5, 0.125])]


def test_the_atlas_is_a_table_a_figure_and_a_list(folders, tmp_path, capsys):
    lay_side_by_side(folders, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").glob("atlas.*")} == {"atlas.csv", "atlas.png", "atlas.svg"}
    with (tmp_path / "out" / "atlas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["i2t_per_key"] for row in rows] == ["0.5", "2.0", "0.25", "0.5", "0.125"]
    assert {row["miou"] for row in rows} == {""}
    assert "1: 2" in capsys.readouterr().out


def test_one_alone_is_fine(folders, tmp_path):
    lay_side_by_side(folders[:1], tmp_path / "out")
    assert (tmp_path / "out" / "atlas.png").is_file()


def test_an_analysis_that_is_given_twice_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="one is given more than once"):
        lay_side_by_side([*folders, folders[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_analysis_leaves_nothing(folders, tmp_path):
    with pytest.raises(UserError, match="holds no finished analysis"):
        lay_side_by_side([*folders, tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_is_drawn_from_the_folder(folders):
    redraw(folders[0])
    assert "<svg" in (folders[0] / "report.html").read_text()

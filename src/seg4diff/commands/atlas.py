"""`seg4diff atlas` and `seg4diff report`: what stored analyses show, without their models."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from seg4diff.analysis.atlas import MEASURES, atlas_rows, best_blocks, draw_atlas, names_of
from seg4diff.analysis.drawing import write_figure
from seg4diff.analysis.page import PAGE, write_report
from seg4diff.analysis.stored import Analysis, read_analysis
from seg4diff.commands.outputs import results_folder
from seg4diff.disk import whole_file
from seg4diff.errors import UserError
from seg4diff.screen import plain_text, screen

log = logging.getLogger(__name__)


def lay_side_by_side(folders: Sequence[Path], out: Path | None) -> None:
    """Write and print the atlas of stored analyses: atlas.csv, atlas.png and atlas.svg.

    Args:
        folders: of the analyses.
        out: where the files go; None = outputs/atlas/<time>.

    Raises:
        UserError: a folder holds no analysis, or is given twice.
    """
    if twice := [str(folder) for folder in folders if [own.resolve() for own in folders].count(folder.resolve()) > 1]:
        raise UserError(f"each analysis must be given once, but {twice[0]} is given more than once.")
    analyses = [read_analysis(folder) for folder in folders]
    with results_folder(out, "atlas", "atlas.csv") as folder:
        rows = atlas_rows(analyses)
        with whole_file(folder / "atlas.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["model", "block", "depth", "expert", *MEASURES])
            writer.writeheader()
            writer.writerows(rows)
        with plain_text():
            write_figure(draw_atlas(analyses), folder, "atlas")
        screen().print(_table(analyses))
        log.info("atlas.csv, atlas.png and atlas.svg are in %s", folder)


def redraw(folder: Path) -> None:
    """Draw the report of a stored analysis again."""
    write_report(folder)
    log.info("the report is %s", folder / PAGE)


def _table(analyses: Sequence[Analysis]) -> Table:
    """The expert and the highest block of each measure, for each model."""
    table = Table(title="block with the highest value: value", caption="expert: of the finder, or else of the settings (*)")
    for column in ("model", "blocks", "expert", *MEASURES):
        table.add_column(column.replace("_", "\n"), justify="left" if column == "model" else "right", overflow="fold")
    for name, own in zip(names_of(analyses), analyses, strict=True):
        expert = "none" if own.marked is None else f"{own.marked}{'' if own.content.get('finder') else '*'}"
        table.add_row(name, str(own.blocks), expert, *best_blocks(own).values())
    return table

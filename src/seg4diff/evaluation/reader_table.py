"""The table of readers: on the terminal and as a CSV."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from seg4diff.disk import whole_file
from seg4diff.screen import screen

COLUMNS = ("reader", "refine", "mIoU", "gain", "silent", "small", "large", "time")


def percent(value: float, sign: str = "") -> str:
    """A share in %, or "-" where there is none."""
    return "-" if math.isnan(value) else f"{100 * value:{sign}.1f}"


def spread(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A figure in % and, below it, its interval."""
    low, high = (percent(row[f"{name}_{end}"], sign) for end in ("low", "high"))
    return f"{percent(row[name], sign)}\n[{low}, {high}]"


def print_readers(rows: Sequence[Mapping[str, Any]], refused: Mapping[str, str]) -> None:
    """Print one table for each variant and protocol, in the width of a terminal of 80 columns."""
    console = screen()
    for variant, protocol in dict.fromkeys((row["variant"], row["protocol"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["protocol"]) == (variant, protocol)]
        table = Table(title=f"{variant}, {protocol} prompts: mIoU (%)", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns = COLUMNS if math.isnan(own[0]["memory"]) else (*COLUMNS, "memory")
        for name in columns:
            table.add_column(name, justify="left" if name in ("reader", "refine") else "right", no_wrap=True)
        for row in own:
            figures = [percent(row[name]) for name in ("silent", "small", "large")]
            costs = [f"{row[name]:.2f}" for name in columns[columns.index("time") :]]
            table.add_row(row["reader"], row["refine"], spread(row, "miou"), spread(row, "gain", "+"), *figures, *costs)
        console.print(table)
        console.print("upper bound:", ", ".join(f"{name} {value}" for name, value in _each(own, "refine", "upper_bound").items()))
        if protocol == "calibrated":
            console.print("presence:", ", ".join(f"{name} {value}" for name, value in _each(own, "reader", "presence").items()))
    for name, reason in refused.items():
        console.print(f"{name}: - ({reason})")
    console.print(
        "In brackets: 95 % interval, bootstrap over images. gain: over the expert without refinement, paired by image. silent: share of "
        "the classes in the ground truth with IoU 0. small, large: IoU of connected parts below and above 2 % of the picture, each within "
        "its bounding box. time, memory: of a pass and its reading, in units of the expert. upper bound: the true masks on the token "
        "grid, refined. presence: average precision of the calibrated presence."
    )


def _each(rows: Sequence[Mapping[str, Any]], key: str, figure: str) -> dict[str, str]:
    """A figure that is the same for all rows with one value of `key`."""
    return {row[key]: percent(row[figure]) for row in rows}


def write_readers(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write the rows as a CSV."""
    with whole_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

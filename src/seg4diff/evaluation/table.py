"""Several evaluations side by side: one table on screen, one CSV, one plot; ours, the paper's, and what guessing scores."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.table import Table

from seg4diff.disk import whole_file
from seg4diff.evaluation.report import EXPLANATION, VARIANTS, print_bases
from seg4diff.screen import plain_text, screen


@dataclass(frozen=True)
class Row:
    """One evaluation.

    Attributes:
        name: what the configuration calls it.
        title: what people call its data set.
        geometry: how images met the canvas.
        report: see `SplitEvaluation.report`.
        paper: mIoU in % of the paper's model of this name: {"base"} and, where published, {"COCO", "SA-1B"} with a LoRA aligned on these.
    """

    name: str
    title: str
    geometry: str
    report: dict[str, Any]
    paper: dict[str, float] = field(default_factory=dict)

    def interval(self, variant: str) -> str:
        """Our mIoU in % and, below it, its 95 % interval; empty where there is none."""
        if f"{variant}/miou" not in self.report:
            return ""
        value, low, high = (f"{100 * self.report[f'{variant}/{part}']:.1f}" for part in ("miou", "miou_low", "miou_high"))
        return f"{value}\n[{low}, {high}]"

    def floor(self) -> float:
        """The best score of those that look at no image, in %."""
        return max(100 * value for name, value in self.report.items() if name.startswith("floor/"))

    def bounds(self) -> str:
        """Floor and, below it, ceiling in %."""
        return f"{self.floor():.1f}\n{100 * self.report['ceiling/miou']:.1f}"

    def published(self) -> str:
        """The paper's figures: the base model, below it its two LoRAs."""
        base, *loras = (f"{self.paper[key]:.1f}" for key in ("base", "COCO", "SA-1B") if key in self.paper) if self.paper else ("",)
        return f"{base}\n{' / '.join(loras)}"


def print_table(rows: Sequence[Row], model: str | None) -> None:
    """Print our figures and the paper's, in the width of a terminal of 80 columns.

    Args:
        rows: the evaluations.
        model: name of the model in the paper's tables; None = it is in none.
    """
    console, table = screen(), Table(title="mIoU (%)")
    variants = [name for name in VARIANTS if any(f"{name}/miou" in row.report for row in rows)]
    published = any(row.paper for row in rows)
    table.add_column("benchmark", no_wrap=True)
    for title in [*(VARIANTS[name] for name in variants), "floor\nceiling", *([f"paper: {model}\n+ COCO / SA-1B"] if published else [])]:
        table.add_column(title, justify="right")
    for row in rows:
        name = f"{row.title}\n{row.report['protocol']}, {row.geometry}"
        table.add_row(name, *(row.interval(variant) for variant in variants), row.bounds(), *([row.published()] if published else []))
    console.print(table)
    for protocol in dict.fromkeys(row.report["protocol"] for row in rows):
        console.print(f"{protocol}: {EXPLANATION[protocol][0]}.")
    sizes = ", ".join(dict.fromkeys(f"{row.title} {row.report['images']}" for row in rows))
    console.print(
        "In brackets: 95 % interval, bootstrap over images. Floor: the better score of those that look at no image; ceiling: the true "
        f"masks on the token grid. Images: {sizes}."
    )
    print_bases(rows[0].report, console)


def write_table(rows: Sequence[Row], folder: Path) -> None:
    """Write benchmark.csv and benchmark.png into `folder`."""
    figures = list(dict.fromkeys(key for row in rows for key, value in row.report.items() if isinstance(value, int | float)))
    with whole_file(folder / "benchmark.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "title", "protocol", "geometry", "paper base", "paper COCO", "paper SA-1B", *figures])
        for row in rows:
            paper = [row.paper.get(key, "") for key in ("base", "COCO", "SA-1B")]
            own = [row.report.get(key, "") for key in figures]
            writer.writerow([row.name, row.title, row.report["protocol"], row.geometry, *paper, *own])
    with plain_text():
        plot_table(rows, folder / "benchmark.png")


def plot_table(rows: Sequence[Row], path: Path) -> None:
    """Bars for base and LoRA with their intervals, marks for the floor and the paper's base model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 1.3 * len(rows) + 2), 4), layout="constrained")
    axes = figure.subplots()
    for shift, (variant, title), colour in zip((-0.2, 0.2), VARIANTS.items(), ("tab:blue", "tab:green"), strict=True):
        places = [k for k, row in enumerate(rows) if f"{variant}/miou" in row.report]
        values, low, high = ([100 * rows[k].report[f"{variant}/{part}"] for k in places] for part in ("miou", "miou_low", "miou_high"))
        if places:
            reach = [[v - a for v, a in zip(values, low, strict=True)], [b - v for v, b in zip(values, high, strict=True)]]
            axes.bar([k + shift for k in places], values, 0.38, yerr=reach, label=title, color=colour, error_kw={"linewidth": 1})
    for k, row in enumerate(rows):
        axes.hlines(row.floor(), k - 0.42, k + 0.42, color="tab:red", linewidth=2, label="" if k else "floor")
    known = [(k, row.paper["base"]) for k, row in enumerate(rows) if "base" in row.paper]
    if known:
        x, y = zip(*known, strict=True)
        axes.scatter(x, y, marker="D", s=30, color="black", label="paper, base", zorder=4)
    axes.set_xticks(range(len(rows)), [fill(f"{row.title}, {row.report['protocol']}", 16) for row in rows], fontsize=8)
    axes.set(ylabel="mIoU (%)", ylim=(0, 100), title="Base model and LoRA")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)

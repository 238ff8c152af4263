"""Several evaluations side by side: one table on screen, one CSV, one plot; ours, the paper's, and the image-blind baselines."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from rich.table import Table

from seg4diff.disk import whole_file
from seg4diff.evaluation.display import print_bases, print_reading, protocol_text
from seg4diff.evaluation.report import Report, as_text, numbers, title
from seg4diff.screen import plain_text, screen

COLOURS = {"base": "tab:blue", "lora": "tab:green"}
PAPER = ("base", "COCO", "SA-1B")
"""The paper's variants of a model: without a LoRA, and with one that was aligned on these data sets."""


@dataclass(frozen=True)
class Entry:
    """One evaluation.

    Attributes:
        name: what the configuration calls it.
        title: what people call its data set.
        geometry: how images met the canvas.
        report: what was found.
        paper: mIoU in % of the paper's model of this name, of those of `PAPER` that are published.
    """

    name: str
    title: str
    geometry: str
    report: Report
    paper: dict[str, float] = field(default_factory=dict)

    @property
    def best_baseline(self) -> float:
        """The best score of those that look at no image."""
        return max(self.report.baseline.values())

    def estimate(self, variant: str) -> str:
        """Our mIoU in % and, below it, its 95 % interval; empty where there is none."""
        scores = self.report.variants
        return scores[variant].text().replace(" ", "\n", 1) if variant in scores else ""

    def bounds(self) -> str:
        """Best baseline and, below it, upper bound in %."""
        return f"{as_text('baseline', self.best_baseline)}\n{as_text('upper_bound', self.report.upper_bound)}"

    def published(self) -> str:
        """The paper's figures: the base model, below it its two LoRAs."""
        base, *loras = (f"{self.paper[key]:.1f}" for key in PAPER if key in self.paper) if self.paper else ("",)
        return f"{base}\n{' / '.join(loras)}"


def print_table(entries: Sequence[Entry], model: str | None) -> None:
    """Print our figures and the paper's, in the width of a terminal of 80 columns.

    Args:
        entries: the evaluations.
        model: name of the model in the paper's tables; None = it is in none.
    """
    console, table = screen(), Table(title="mIoU (%)")
    variants = [name for name in COLOURS if any(name in entry.report.variants for entry in entries)]
    published = any(entry.paper for entry in entries)
    table.add_column("benchmark", no_wrap=True)
    headers = [
        *map(title, variants),
        "baseline\n" + title("upper_bound").replace(" ", "\n"),
        *([f"paper: {model}\n+ COCO / SA-1B"] if published else []),
    ]
    for header in headers:
        table.add_column(header, justify="right")
    for entry in entries:
        name = f"{entry.title}\n{entry.report.protocol}, {entry.geometry}"
        own = [*(entry.estimate(variant) for variant in variants), entry.bounds()]
        table.add_row(name, *own, *([entry.published()] if published else []))
    console.print(table)
    for name, text in {entry.report.protocol: protocol_text(entry.report) for entry in entries}.items():
        console.print(f"{name}: {text}.")
    sizes = ", ".join(dict.fromkeys(f"{entry.title} {entry.report.images}" for entry in entries))
    console.print(
        "In brackets: 95 % interval, bootstrap over images. Baseline: the best image-blind baseline. Upper bound: the true masks, averaged "
        f"on the token grid and upsampled. Images: {sizes}."
    )
    print_reading(entries[0].report, console)
    print_bases(entries[0].report, console)


def write_table(entries: Sequence[Entry], folder: Path) -> None:
    """Write benchmark.csv and benchmark.png into `folder`."""
    found = [numbers(entry.report.metrics()) for entry in entries]
    keys = list(dict.fromkeys(key for own in found for key in own))
    with whole_file(folder / "benchmark.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "title", "protocol", "reading", "geometry", *(f"paper {key}" for key in PAPER), *keys])
        for entry, own in zip(entries, found, strict=True):
            paper = [entry.paper.get(key, "") for key in PAPER]
            about = [entry.name, entry.title, entry.report.protocol, entry.report.reading or "paper", entry.geometry]
            writer.writerow([*about, *paper, *(own.get(key, "") for key in keys)])
    with plain_text():
        plot_table(entries, folder / "benchmark.png")


def plot_table(entries: Sequence[Entry], path: Path) -> None:
    """Bars for base and LoRA with their intervals, marks for the best baseline and the paper's base model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 1.3 * len(entries) + 2), 4), layout="constrained")
    axes = figure.subplots()
    for shift, (variant, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        scores = {k: entry.report.variants[variant] for k, entry in enumerate(entries) if variant in entry.report.variants}
        if scores:
            values = [100 * score.miou for score in scores.values()]
            reach = [[100 * (score.miou - score.miou_low) for score in scores.values()]]
            reach += [[100 * (score.miou_high - score.miou) for score in scores.values()]]
            places = [k + shift for k in scores]
            axes.bar(places, values, 0.38, yerr=reach, label=title(variant), color=colour, error_kw={"linewidth": 1})
    for k, entry in enumerate(entries):
        axes.hlines(100 * entry.best_baseline, k - 0.42, k + 0.42, color="tab:red", linewidth=2, label="" if k else "baseline")
    known = [(k, entry.paper["base"]) for k, entry in enumerate(entries) if "base" in entry.paper]
    if known:
        x, y = zip(*known, strict=True)
        axes.scatter(x, y, marker="D", s=30, color="black", label="paper, base", zorder=4)
    axes.set_xticks(range(len(entries)), [fill(f"{entry.title}, {entry.report.protocol}", 16) for entry in entries], fontsize=8)
    axes.set(ylabel="mIoU (%)", ylim=(0, 100), title="Base model and LoRA")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)

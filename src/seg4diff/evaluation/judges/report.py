"""Figures of generated images as a table on screen and as a CSV with one row for each image."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.table import Column, Table

from seg4diff.disk import whole_file
from seg4diff.evaluation.judges.figures import Figures
from seg4diff.evaluation.judges.scores import Estimate
from seg4diff.screen import screen

Estimates = dict[str, dict[str, Estimate]]
"""By metric and group."""

TITLES = {"base": "base", "this": "this folder", "gain": "difference"}
"""What columns are called."""


@dataclass(frozen=True)
class Comparison:
    """Means of a folder and, where there is another one to compare with, its means and the differences.

    Attributes:
        this: of the folder.
        base: of the other one.
        gain: what the folder adds to the other one, paired by prompt and image.
    """

    this: Estimates
    base: Estimates
    gain: Estimates

    @classmethod
    def of(cls, figures: Figures, base: Figures | None, resamples: int, seed: int) -> Self:
        """From the figures of both folders; see `scores.estimates`."""
        if base is None:
            return cls(figures.means(resamples, seed), {}, {})
        return cls(figures.means(resamples, seed), base.means(resamples, seed), figures.gains(base, resamples, seed))


def print_scores(comparison: Comparison, fid: Mapping[str, float]) -> None:
    """Print a row for each metric and group.

    Args:
        comparison: the means.
        fid: FID by folder, "base" and "this"; may be empty.
    """
    columns = {"base": comparison.base, "this": comparison.this, "gain": comparison.gain}
    shown = {name: own for name, own in columns.items() if own}
    table = Table("", *(Column(TITLES[name], justify="right", no_wrap=True) for name in shown))
    for metric, groups in comparison.this.items():
        for group in groups:
            cells = (_cell(own.get(metric, {}).get(group), signed=name == "gain") for name, own in shown.items())
            table.add_row(" ".join((metric, group)).strip(), *cells)
        table.add_section()
    if fid:
        table.add_row("FID", *(f"{fid[name]:.3f}" if name in fid else "" for name in shown))
    screen().print(table)
    counts = {metric: max(groups.values(), key=lambda estimate: estimate.images) for metric, groups in comparison.this.items()}
    images = ", ".join(f"{metric} {most.images} of {most.prompts} prompts" for metric, most in counts.items())
    screen().print(f"In brackets: 95 % interval, bootstrap over prompts. Images: {images}.")


def _cell(estimate: Estimate | None, signed: bool) -> str:
    if estimate is None:
        return ""
    mean, low, high = (f"{value:{'+' if signed else ''}.3f}" for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} [{low}, {high}]"


def write_images(path: Path, folders: Mapping[str, Figures]) -> None:
    """Write a CSV with one row for each image: its prompt, its file, its figures, and what GenEval finds wrong.

    Args:
        path: the file.
        folders: figures by name of the folder.
    """
    metrics = list(dict.fromkeys(name for figures in folders.values() for name in figures.values))
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["folder", "prompt", "group", "number", "file", *metrics, "reason"])
        for name, figures in folders.items():
            for place, sample in enumerate(figures.samples):
                values = [figures.values[metric].get(place, "") for metric in metrics]
                about = [name, sample.prompt.text, sample.prompt.group, sample.number, str(sample.path)]
                writer.writerow([*about, *values, figures.reasons.get(place, "")])

"""The report of an evaluation as people read it: tables on screen, a CSV per class, a plot over the blocks."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.table import Table
from rich.text import Text

from seg4diff.disk import save_picture, whole_file
from seg4diff.evaluation.matching import MATCHING_TEXT
from seg4diff.evaluation.protocol import PROTOCOL_TEXT
from seg4diff.evaluation.report import Report, as_text, title
from seg4diff.screen import Console, screen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS_PER_ROW = 10  # what a terminal of 80 columns takes
COLUMNS = ("miou", "macc", "pacc", "fwiou", "miou_union", "flow_loss")
"""Figures of base and LoRA in the table."""
LINES = {
    "lora/miou": "tab:green",
    "upper_bound": "tab:gray",
    "baseline/constant": "tab:red",
    "baseline/random": "tab:brown",
    "baseline/single": "tab:red",
    "baseline/tiles": "tab:brown",
}
"""Figures that the plot shows as lines, and their colours."""
GUESSES = "one class for the whole image, or a random class for each pixel, of those that may be predicted"
TILES = "the image as one proposal, or as 3 x 3 equal tiles"


def protocol_text(report: Report) -> str:
    """What the protocol of a report is."""
    return PROTOCOL_TEXT[report.protocol] if report.matching is None else MATCHING_TEXT[report.matching]


def print_report(report: Report) -> None:
    """Print the tables of an evaluation."""
    console, blocks = screen(), report.miou_per_block
    if len(blocks) > 1:
        for first in range(0, len(blocks), BLOCKS_PER_ROW):
            part = dict(list(blocks.items())[first : first + BLOCKS_PER_ROW])
            table = Table(title="" if first else "zero-shot mIoU of every block, base model (%)")
            for block in part:
                table.add_column(f"{block}*" if block == report.expert_layer else str(block), justify="right")
            table.add_row(*(Text(as_text("miou", value), "bold" if block == report.expert_layer else "") for block, value in part.items()))
            console.print(table)
        console.print(f"* block {report.expert_layer} is the expert block of this run.")
    console.print(_headline(report))
    console.print(
        f"Protocol: {protocol_text(report)}.\n"
        "In brackets: 95 % interval, bootstrap over images.\n"
        f"Baselines are image-blind: {GUESSES if report.matching is None else TILES}. Upper bound: the true masks, averaged on the "
        "token grid and upsampled."
    )
    print_reading(report, console)
    print_bases(report, console)


def print_reading(report: Report, console: Console) -> None:
    """Say so where maps were read otherwise than in the paper."""
    if report.reading is not None:
        console.print(f"Not the paper's way to read: {report.reading}. The upper bound is refined as the maps are.")


def print_bases(report: Report, console: Console) -> None:
    """Say so where a LoRA is evaluated on another model than its own."""
    if report.lora is not None and report.lora.base_model is not None:
        trained_on = report.lora.base_model
        console.print(
            f"The LoRA was trained on another model, {trained_on}; evaluated was {report.base_model}.", markup=False, highlight=False
        )


def _headline(report: Report) -> Table:
    """The table of the expert block: base, LoRA and their difference, baselines and upper bound."""
    metrics = report.metrics()
    columns = [name for name in COLUMNS if f"base/{name}" in metrics]
    table = Table(title=f"block {report.expert_layer} on {report.images} images (%)")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(title(name), justify="right", no_wrap=name == "miou")
    for variant, score in report.variants.items():
        table.add_row(title(variant), score.text(), *(as_text(name, metrics[f"{variant}/{name}"]) for name in columns[1:]))
    if report.gain is not None:
        table.add_row(title("gain"), report.gain.text("+"))
    table.add_section()
    for key in [*(f"baseline/{name}" for name in report.baseline), "upper_bound"]:
        table.add_row(title(key).replace(": ", ":\n"), as_text(key, metrics[key]))  # two lines: 80 columns are full
    return table


def write_report(report: Report, folder: Path) -> Image.Image | None:
    """Write per-class.csv into `folder`, and blocks.png where there are several blocks; returns this picture."""
    scores = report.variants
    with whole_file(folder / "per-class.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"{title(variant)} IoU" for variant in scores)])
        for name in report.base.iou_per_class:
            writer.writerow([name, *(f"{score.iou_per_class.get(name, float('nan')):.4f}" for score in scores.values())])
    if len(report.miou_per_block) == 1:
        return None
    picture = plot_blocks(report)
    save_picture(picture, folder / "blocks.png")
    return picture


def plot_blocks(report: Report) -> Image.Image:
    """Bars: zero-shot mIoU of each block of the base model; lines: LoRA, baselines and upper bound."""
    from matplotlib.figure import Figure

    metrics, blocks = report.metrics(), report.miou_per_block
    figure = Figure(figsize=(7, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    colours = ["tab:orange" if block == report.expert_layer else "tab:blue" for block in blocks]
    axes.bar(range(len(blocks)), [100 * value for value in blocks.values()], color=colours)
    axes.set_xticks(range(len(blocks)), [str(block) for block in blocks])
    for key, colour in LINES.items():
        if key in metrics:
            axes.axhline(100 * metrics[key], label=title(key), color=colour, linestyle="--", linewidth=1.2)
    axes.set(xlabel="block", ylabel="mIoU (%)", ylim=(0, 100), title="Zero-shot mIoU by block (orange: expert)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return picture_of(figure)


def picture_of(figure: "Figure") -> Image.Image:
    """A matplotlib figure as an RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

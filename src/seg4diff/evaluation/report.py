"""The result of an evaluation for people: a table on screen, a CSV per class, a plot over the blocks."""

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seg4diff.evaluation.protocol import PROTOCOL_TEXT

VARIANTS = {"base": "base", "lora": "LoRA"}
"""Variant in the report -> what people read."""
BLOCKS_PER_ROW = 10  # what a terminal of 80 columns takes
COLUMNS = {"miou": "mIoU", "macc": "mACC", "pacc": "pACC", "fwiou": "fwIoU", "miou_union": "mIoU (any union)", "val_flow_loss": "flow loss"}


def print_report(report: dict[str, Any]) -> None:
    """Print the tables of an `EvaluationModule.report`."""
    console = Console()
    expert = report["expert_layer"]
    blocks = report["miou_per_block"]
    if len(blocks) > 1:
        for first in range(0, len(blocks), BLOCKS_PER_ROW):
            part = dict(list(blocks.items())[first : first + BLOCKS_PER_ROW])
            table = Table(title="" if first else "zero-shot mIoU of every block, base model (%)")
            for block in part:
                table.add_column(f"{block}*" if block == expert else str(block), justify="right")
            table.add_row(*(f"[bold]{100 * value:.1f}" if block == expert else f"{100 * value:.1f}" for block, value in part.items()))
            console.print(table)
        console.print(f"* block {expert} is the expert block of this run.")
    table = Table(title=f"block {expert} on {report['images']} images (%)")
    table.add_column("", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for variant, title in VARIANTS.items():
        if f"{variant}/miou" in report:
            figures = [report[f"{variant}/{name}"] for name in COLUMNS]
            table.add_row(title, *(f"{100 * value:.1f}" for value in figures[:-1]), f"{figures[-1]:.4f}")
    table.add_section()
    table.add_row("floor: a constant class", f"{100 * report['floor/constant']:.1f}")
    table.add_row("floor: a random class", f"{100 * report['floor/random']:.1f}")
    table.add_row("ceiling: token grid", f"{100 * report['ceiling/miou']:.1f}")
    console.print(table)
    console.print(
        f"Protocol: {PROTOCOL_TEXT[report['protocol']]}.\nFloors guess among the classes that the prompt names: one per image, or one "
        "at random per pixel. Ceiling: the true masks, averaged on the token grid and upsampled."
    )


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write per-class.csv and blocks.png into `folder`."""
    variants = [variant for variant in VARIANTS if f"{variant}/iou_per_class" in report]
    names = list(report["base/iou_per_class"])
    with (folder / "per-class.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"{variant} IoU" for variant in variants)])
        for name in names:
            writer.writerow([name, *(f"{report[f'{variant}/iou_per_class'].get(name, float('nan')):.4f}" for variant in variants)])
    plot_blocks(report, folder / "blocks.png")


def plot_blocks(report: dict[str, Any], path: Path) -> None:
    """Bars: zero-shot mIoU of each block of the base model; lines: LoRA, floors and ceiling."""
    from matplotlib.figure import Figure

    blocks = report["miou_per_block"]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:orange" if block == report["expert_layer"] else "tab:blue" for block in blocks]
    axes.bar(range(len(blocks)), [100 * value for value in blocks.values()], color=colours)
    axes.set_xticks(range(len(blocks)), [str(block) for block in blocks])
    lines = [("lora/miou", "LoRA on the expert", "tab:green"), ("ceiling/miou", "ceiling of the token grid", "tab:gray")]
    lines += [("floor/constant", "floor: constant class", "tab:red"), ("floor/random", "floor: random class", "tab:brown")]
    for key, label, colour in lines:
        if key in report:
            axes.axhline(100 * report[key], label=label, color=colour, linestyle="--", linewidth=1.2)
    axes.set(xlabel="block", ylabel="mIoU (%)", ylim=(0, 100), title="Zero-shot mIoU by block (orange: expert)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=120)

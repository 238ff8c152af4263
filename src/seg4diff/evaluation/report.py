"""The result of an evaluation for people: a table on screen, a CSV per class, a plot over the blocks."""

import csv
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from seg4diff.disk import whole_file
from seg4diff.evaluation.matching import MATCHING_TEXT
from seg4diff.evaluation.protocol import PROTOCOL_TEXT
from seg4diff.screen import Console, screen

VARIANTS = {"base": "base", "lora": "LoRA"}
"""Variant in the report -> what people read."""
GAIN = "gain"
"""Name in the report of what a LoRA adds to the base model."""
BASES = ("base_model", "lora/base_model")
"""Names in the report of the model that was evaluated and of the one that the LoRA was trained on, where they differ."""
BLOCKS_PER_ROW = 10  # what a terminal of 80 columns takes
COLUMNS = {"miou": "mIoU", "macc": "mACC", "pacc": "pACC", "fwiou": "fwIoU", "miou_union": "mIoU (any union)", "val_flow_loss": "flow loss"}
BOUNDS = {
    "floor/constant": "floor: constant",
    "floor/random": "floor: random",
    "floor/single": "floor: single",
    "floor/tiles": "floor: tiles",
    "ceiling/miou": "ceiling: grid",
}
"""Figure in the report -> what people read; an evaluation has the floors that belong to its protocol."""
GUESS_TEXT = "Floors guess among the classes that the read-out may answer with: one per image, or a random one per pixel."
BLIND_TEXT = "Floors match proposals that look at no image: all of it as a single one, or 3 x 3 equal tiles."
EXPLANATION = {name: (text, GUESS_TEXT) for name, text in PROTOCOL_TEXT.items()}
EXPLANATION |= {name: (text, BLIND_TEXT) for name, text in MATCHING_TEXT.items()}
"""Protocol -> what it is, what its floors are."""


def print_report(report: dict[str, Any]) -> None:
    """Print the tables of an `EvaluationModule.report`."""
    console = screen()
    expert = report["expert_layer"]
    blocks = report["miou_per_block"]
    if len(blocks) > 1:
        for first in range(0, len(blocks), BLOCKS_PER_ROW):
            part = dict(list(blocks.items())[first : first + BLOCKS_PER_ROW])
            table = Table(title="" if first else "zero-shot mIoU of every block, base model (%)")
            for block in part:
                table.add_column(f"{block}*" if block == expert else str(block), justify="right")
            table.add_row(*(Text(f"{100 * value:.1f}", "bold" if block == expert else "") for block, value in part.items()))
            console.print(table)
        console.print(f"* block {expert} is the expert block of this run.")
    console.print(_headline(report))
    protocol, floors = EXPLANATION[report["protocol"]]
    console.print(
        f"Protocol: {protocol}.\nIn brackets: 95 % interval, bootstrap over images.\n{floors} Ceiling: the "
        "true masks, averaged on the token grid and upsampled."
    )
    print_bases(report, console)


def print_bases(report: dict[str, Any], console: Console) -> None:
    """Say so where the LoRA was trained on another model than the one that was evaluated."""
    if BASES[1] in report:
        here, there = (report[name] for name in BASES)
        console.print(f"The LoRA was trained on another model, {there}; evaluated was {here}.", markup=False, highlight=False)


def _headline(report: dict[str, Any]) -> Table:
    """The table of the expert block: base, LoRA and their difference, floors and ceiling."""
    columns = {name: title for name, title in COLUMNS.items() if f"base/{name}" in report}
    table = Table(title=f"block {report['expert_layer']} on {report['images']} images (%)")
    table.add_column("", no_wrap=True)
    for name, title in columns.items():
        table.add_column(title, justify="right", no_wrap=name == "miou")
    for variant, title in VARIANTS.items():
        if f"{variant}/miou" in report:
            others = (_figure(name, report[f"{variant}/{name}"]) for name in columns if name != "miou")
            table.add_row(title, _with_interval(report, variant), *others)
    if f"{GAIN}/miou" in report:
        table.add_row("LoRA - base", _with_interval(report, GAIN))
    table.add_section()
    for name, title in BOUNDS.items():
        if name in report:
            table.add_row(title, _figure(name, report[name]))
    return table


def _figure(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "val_flow_loss" else f"{100 * value:.1f}"


def _with_interval(report: dict[str, Any], name: str) -> str:
    """The mIoU and its interval, as in 79.3 [78.1, 80.4]; a difference has its sign."""
    sign = "+" if name == GAIN else ""
    value, low, high = (f"{100 * report[f'{name}/{part}']:{sign}.1f}" for part in ("miou", "miou_low", "miou_high"))
    return f"{value} [{low}, {high}]"


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write per-class.csv into `folder`, and blocks.png where there are several blocks."""
    variants = [variant for variant in VARIANTS if f"{variant}/iou_per_class" in report]
    names = list(report["base/iou_per_class"])
    with whole_file(folder / "per-class.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"{variant} IoU" for variant in variants)])
        for name in names:
            writer.writerow([name, *(f"{report[f'{variant}/iou_per_class'].get(name, float('nan')):.4f}" for variant in variants)])
    if len(report["miou_per_block"]) > 1:
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
    lines += [("floor/single", "floor: single proposal", "tab:red"), ("floor/tiles", "floor: 3 x 3 tiles", "tab:brown")]
    for key, label, colour in lines:
        if key in report:
            axes.axhline(100 * report[key], label=label, color=colour, linestyle="--", linewidth=1.2)
    axes.set(xlabel="block", ylabel="mIoU (%)", ylim=(0, 100), title="Zero-shot mIoU by block (orange: expert)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)

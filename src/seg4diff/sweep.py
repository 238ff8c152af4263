"""The end of a sweep (`python train.py -m key=a,b,c`): one table on screen, one CSV and one plot in the sweep folder."""

import csv
import itertools
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

SHOWN = {
    "base/miou": "base",
    "lora/miou": "LoRA",
    "base/val_flow_loss": "base flow",
    "lora/val_flow_loss": "LoRA flow",
    "floor/constant": "floor: constant",
    "floor/random": "floor: random",
    "floor/single": "floor: single",
    "floor/tiles": "floor: tiles",
    "ceiling/miou": "ceiling",
}
"""Figures that the table shows, where the runs have them, and their titles; flow losses as they are, the others are mIoU in %."""
LONGEST_CELL = 20
"""Characters of an override's value that the table shows; the end of a path tells more than its beginning."""


REPLICATES = ("seed", "ckpt")
"""Runs that differ in these alone are repetitions of one setting, and are averaged."""
LINES = (("base/miou", "base", "tab:blue"), ("lora/miou", "LoRA", "tab:green"), ("ceiling/miou", "ceiling", "tab:gray"))
"""Figure, label and colour of the lines of the plot."""


class SweepSummary(Callback):
    """Hydra callback; reads what the runs wrote, so it also works for jobs that ran elsewhere on the same disk."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if runs:
            summarise(runs, folder)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """One flat row per finished run of a sweep folder: its overrides, then its figures."""
    rows = []
    files = [file for file in folder.glob("*/metrics.json") if (file.parent / ".hydra" / "overrides.yaml").is_file()]
    for file in sorted(files, key=lambda file: (len(file.parent.name), file.parent.name)):
        lines = list(OmegaConf.load(file.parent / ".hydra" / "overrides.yaml"))
        overrides = {
            override.key_or_group: "" if override.is_delete() else override.get_value_string()
            for override in OverridesParser.create().parse_overrides(lines)
        }
        metrics = json.loads(file.read_text(encoding="utf-8"))
        figures = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        blocks = {f"miou_block_{block}": value for block, value in metrics.get("miou_per_block", {}).items()}
        rows.append({"run": file.parent.name, "overrides": overrides, "figures": figures | blocks})
    return rows


def summarise(runs: list[dict[str, Any]], folder: Path) -> None:
    """Write sweep.csv and sweep.png, print the table; repetitions of one setting are also averaged."""
    varied = [key for key in runs[0]["overrides"] if len({run["overrides"].get(key) for run in runs}) > 1]
    names = list(dict.fromkeys(name for run in runs for name in run["figures"]))
    with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *runs[0]["overrides"], *names])
        for run in runs:
            writer.writerow([run["run"], *run["overrides"].values(), *(run["figures"].get(name, "") for name in names)])
    shown = [name for name in SHOWN if name in names]
    table = Table(title=f"sweep over {', '.join(varied) or 'nothing'}: {folder}")
    for title in [*(key.rpartition(".")[2] for key in varied), *(SHOWN[name] for name in shown)]:
        table.add_column(title, justify="right")
    for run in runs:
        cells = [_figure(name, [run["figures"][name]]) if name in run["figures"] else "" for name in shown]
        table.add_row(*(run["overrides"].get(key, "")[-LONGEST_CELL:] for key in varied), *cells)
    settings = [key for key in varied if key not in REPLICATES]
    if settings != varied:
        _add_means(table, runs, settings, shown, varied)
    Console().print(table)
    if varied:
        plot_sweep(runs, settings or varied, folder / "sweep.png")


def _add_means(table: Table, runs: list[dict], settings: list[str], shown: list[str], varied: list[str]) -> None:
    """One row of mean ± standard deviation for every setting; a figure that no run of it has stays empty."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for run in runs:
        groups[tuple(run["overrides"].get(key, "") for key in settings)].append(run["figures"])
    table.add_section()
    for group, figures in groups.items():
        labels = dict(zip(settings, group, strict=True))
        cells = [_figure(name, [figure[name] for figure in figures if name in figure]) for name in shown]
        table.add_row(*(labels.get(key, f"{len(figures)} runs") for key in varied), *cells)


def _figure(name: str, values: list[float]) -> str:
    """A value, or mean and standard deviation of several, as the table shows it."""
    scale, digits = (1, 4) if name.endswith("flow_loss") else (100, 1)
    parts = [mean(values), stdev(values)] if len(values) > 1 else values
    return " ± ".join(f"{scale * part:.{digits}f}" for part in parts)


def plot_sweep(runs: list[dict[str, Any]], settings: list[str], path: Path) -> None:
    """Plot mIoU over the first setting, one line for each value of the others: the base model's and, where trained, the LoRA's."""
    from matplotlib.figure import Figure

    key, *others = settings
    values = list(dict.fromkeys(run["overrides"][key] for run in runs))
    groups = list(dict.fromkeys(tuple(run["overrides"][other] for other in others) for run in runs))
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for (name, label, colour), (number, group) in itertools.product(LINES, enumerate(groups)):
        members = [run for run in runs if name in run["figures"] and tuple(run["overrides"][other] for other in others) == group]
        points = [(values.index(run["overrides"][key]), 100 * run["figures"][name]) for run in members]
        if points:
            axes.scatter(*zip(*points, strict=True), color=colour, s=14)
            means = [(x, mean(y for other, y in points if other == x)) for x in sorted({x for x, _ in points})]
            style = {"color": colour, "linestyle": ("-", "--", ":", "-.")[number % 4]}
            axes.plot(*zip(*means, strict=True), label=" ".join([label, *group]), **style)
    axes.set_xticks(range(len(values)), values)
    axes.set(xlabel=key, ylabel="mIoU (%)", ylim=(0, 100), title=f"mIoU over {key}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)

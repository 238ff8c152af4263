"""The end of a sweep (`python train.py -m key=a,b,c`): one table on screen, one CSV and one plot in the sweep folder.

`seg4diff sweep <sweep folder>` makes them again: while Slurm still runs the jobs, or for several sweeps into one folder.
"""

import atexit
import csv
import itertools
import logging
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from seg4diff.commands.console import quiet_libraries
from seg4diff.disk import read_json, whole_file
from seg4diff.errors import UserError
from seg4diff.screen import plain_text, screen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

SHOWN = {
    "base/miou": "base",
    "lora/miou": "LoRA",
    "base/val_flow_loss": "base flow",
    "lora/val_flow_loss": "LoRA flow",
    "val/miou": "validation",
    "floor/constant": "floor: constant",
    "floor/random": "floor: random",
    "floor/single": "floor: single",
    "floor/tiles": "floor: tiles",
    "ceiling/miou": "ceiling",
}
"""Figures that the table shows, where the runs have them, and their titles; flow losses as they are, the others are mIoU in %."""
LONGEST_CELL = 20
"""Characters of an override's value that the table shows; the end of a path tells more than its beginning."""
SHORT = 8
"""Characters up to which a number is shown as it was written."""
REPLICATES = ("seed", "ckpt")
"""Runs that differ in these alone are repetitions of one setting, and are averaged."""
LINES = (
    ("base/miou", "base", "tab:blue"),
    ("lora/miou", "LoRA", "tab:green"),
    ("val/miou", "validation", "tab:orange"),
    ("ceiling/miou", "ceiling", "tab:gray"),
)
"""Figure, label and colour of what the plot shows."""


class SweepSummary(Callback):
    """Hydra callback; reads what the runs wrote, so it also works for jobs that ran elsewhere on the same disk."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(summarise_folder, Path(config.hydra.sweep.dir))  # Hydra's own end of a sweep is not reached when a run failed

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        quiet_libraries()  # launchers run a job in a process of its own, which has not been through the root script


def search_figure(config: DictConfig, metrics: dict[str, Any]) -> float | None:
    """What a search is after: the figure that `sweep_objective` names.

    Args:
        config: of the run.
        metrics: content of the run's metrics.json.

    Returns:
        The figure; None where the run has none and no search asks for it.
    """
    figures = _numbers(metrics)
    searching = HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic"
    if searching and config.sweep_objective not in figures:
        raise UserError(f"sweep_objective={config.sweep_objective} is no figure of this run: choose one of {', '.join(figures)}.")
    return figures.get(config.sweep_objective)


def summarise_folder(folder: Path) -> None:
    """Sum up the runs of a sweep folder, if there are any."""
    runs = read_runs(folder)
    if runs:
        summarise(runs, folder)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """One flat row per run of a sweep folder: its overrides, then its figures, of which a run that has not finished has none."""
    rows = []
    runs = [file.parents[1] for file in folder.glob("*/.hydra/overrides.yaml")]
    for run in sorted(runs, key=lambda run: (len(run.name), run.name)):
        lines = list(OmegaConf.load(run / ".hydra" / "overrides.yaml"))
        overrides = {
            override.key_or_group: "" if override.is_delete() else override.get_value_string()
            for override in OverridesParser.create().parse_overrides(lines)
        }
        metrics = _metrics(run / "metrics.json")
        blocks = {f"miou_block_{block}": value for block, value in metrics.get("miou_per_block", {}).items()}
        rows.append({"run": run.name, "overrides": overrides, "figures": _numbers(metrics | blocks)})
    return rows


def _metrics(file: Path) -> dict[str, Any]:
    """The figures of a run, none where it has not finished; one damaged file leaves the other runs their table."""
    try:
        return read_json(file) if file.exists() else {}
    except UserError as error:
        log.warning("%s", error)
        return {}


def summarise(runs: list[dict[str, Any]], folder: Path) -> None:
    """Write sweep.csv and sweep.png, print the table; repetitions of one setting are also averaged."""
    keys = list(dict.fromkeys(key for run in runs for key in run["overrides"]))
    varied = [key for key in keys if len({run["overrides"].get(key) for run in runs}) > 1]
    names = list(dict.fromkeys(name for run in runs for name in run["figures"] if name not in keys))
    with whole_file(folder / "sweep.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *keys, *names])
        for run in runs:
            values = [run["overrides"].get(key, "") for key in keys]
            writer.writerow([run["run"], *values, *(run["figures"].get(name, "") for name in names)])
    settings = [key for key in varied if key not in REPLICATES]
    screen().print(_table(runs, settings, varied, f"sweep over {', '.join(varied) or 'nothing'}: {folder}"))
    if varied and any(run["figures"] for run in runs):
        with whole_file(folder / "sweep.png") as partial, plain_text():
            plot_sweep(runs, settings or varied, partial)


def _table(runs: list[dict[str, Any]], settings: list[str], varied: list[str], title: str) -> Table:
    """One row per run, then one of mean ± standard deviation for every setting that was repeated."""
    shown = [name for name in SHOWN if any(name in run["figures"] for run in runs)]
    table = Table(title=title, caption=None if all(run["figures"] for run in runs) else "a run without figures has not finished")
    for column in [*(key.rpartition(".")[2] for key in varied), *(SHOWN[name] for name in shown)]:
        table.add_column(column, justify="right")
    for run in runs:
        cells = [_figure(name, [run["figures"][name]]) if name in run["figures"] else "" for name in shown]
        table.add_row(*(_short(run["overrides"].get(key, "")) for key in varied), *cells)
    if settings != varied:
        _add_means(table, runs, settings, shown, varied)
    return table


def _add_means(table: Table, runs: list[dict], settings: list[str], shown: list[str], varied: list[str]) -> None:
    """One row of mean ± standard deviation for every setting; a figure that no run of it has stays empty."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for run in runs:
        if run["figures"]:
            groups[_setting(run, settings)].append(run["figures"])
    table.add_section()
    for group, figures in groups.items():
        labels = dict(zip(settings, map(_short, group), strict=True))
        cells = [_figure(name, [figure[name] for figure in figures if name in figure]) for name in shown]
        table.add_row(*(labels.get(key, f"{len(figures)} runs") for key in varied), *cells)


def plot_sweep(runs: list[dict[str, Any]], settings: list[str], path: Path) -> None:
    """Plot mIoU: base, LoRA, validation and ceiling, as far as the runs have them.

    A grid is plotted over its first setting, with one line for each value of the others; what is no grid, such as a search, as points over
    each of its settings.
    """
    from matplotlib.figure import Figure

    is_grid = math.prod(len(_values(runs, key)) for key in settings) == len({_setting(run, settings) for run in runs})
    panels = settings[:1] if is_grid else settings
    figure = Figure(figsize=(3 + 4 * len(panels), 3.8), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        places = places_of(_values(runs, key))
        if is_grid:
            _draw_lines(axes, runs, key, settings[1:], places)
        else:
            for name, label, colour in LINES:
                _draw_points(axes, runs, key, places, name, color=colour, label=label)
        _mark(axes, places)
        axes.set(xlabel=key, ylabel="mIoU (%)", title=f"mIoU over {key}", ylim=(0, 100) if is_grid else None)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120, format="png")


def places_of(values: list[str]) -> dict[str, float]:
    """Where each value stands on the axis: numbers by their size, anything else side by side."""
    numbers = [_number(value) for value in values]
    return {
        value: k if number is None or None in numbers else number for k, (value, number) in enumerate(zip(values, numbers, strict=True))
    }


def _mark(axes: "Axes", places: dict[str, float]) -> None:
    """Ticks at the values, unless they are numbers that a search drew; from a factor of 100 on the axis is logarithmic."""
    if 0 < 100 * min(places.values()) <= max(places.values()):
        axes.set_xscale("log")
    if any(_number(value) is None for value in places) or all(len(value) <= SHORT for value in places):
        axes.set_xticks(list(places.values()), [_short(value) for value in places])
        axes.minorticks_off()


def _draw_lines(axes: "Axes", runs: list[dict], key: str, others: list[str], places: dict[str, float]) -> None:
    """A line through the means of each figure, for each value of the other settings."""
    groups = list(dict.fromkeys(_setting(run, others) for run in runs))
    for (name, label, colour), (number, group) in itertools.product(LINES, enumerate(groups)):
        members = [run for run in runs if _setting(run, others) == group]
        points = _draw_points(axes, members, key, places, name, color=colour)
        means = [(x, mean(y for other, y in points if other == x)) for x in sorted({x for x, _ in points})]
        if means:
            x, y = zip(*means, strict=True)
            axes.plot(x, y, label=" ".join([label, *map(_short, group)]), color=colour, linestyle=("-", "--", ":", "-.")[number % 4])


def _draw_points(axes: "Axes", runs: list[dict], key: str, places: dict[str, float], name: str, **style: Any) -> list[tuple[float, float]]:
    """A point for every run that has the figure; returns them."""
    points = [(places[run["overrides"].get(key, "")], 100 * run["figures"][name]) for run in runs if name in run["figures"]]
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=14, **style)
    return points


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _values(runs: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(run["overrides"].get(key, "") for run in runs))


def _setting(run: dict[str, Any], keys: list[str]) -> tuple[str, ...]:
    return tuple(run["overrides"].get(key, "") for key in keys)


def _figure(name: str, values: list[float]) -> str:
    """A value, or mean and standard deviation of several, as the table shows it."""
    scale, digits = (1, 4) if name.endswith("flow_loss") else (100, 1)
    parts = [mean(values), stdev(values)] if len(values) > 1 else values
    return " ± ".join(f"{scale * part:.{digits}f}" for part in parts)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _short(value: str) -> str:
    """The value as table and plot show it: a long number rounded, of anything else that is long the end."""
    number = _number(value)
    return value if len(value) <= SHORT else value[-LONGEST_CELL:] if number is None else f"{number:.4g}"

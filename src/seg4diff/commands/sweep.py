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
from seg4diff.disk import whole_file
from seg4diff.errors import UserError
from seg4diff.evaluation.report import CATEGORIES, as_text, numbers, read_metrics, title
from seg4diff.screen import plain_text, screen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

SCORES = (
    "base/miou",
    "lora/miou",
    "base/flow_loss",
    "lora/flow_loss",
    "val/miou",
    "baseline/constant",
    "baseline/random",
    "baseline/single",
    "baseline/tiles",
    "upper_bound",
)
TABLES = {"": SCORES} | {
    variant: tuple(f"{variant}/{name}" for name in CATEGORIES) for variant in ("base", "lora", "gain", "val/base", "val/lora")
}
"""Figures that stand in a table together, where the runs have them: those of segmentation, and of each variant what its images show."""
LONGEST_CELL = 20
"""Characters of an override's value that the table shows; the end of a path tells more than its beginning."""
SHORT = 8
"""Characters up to which a number is shown as it was written."""
REPLICATES = ("seed", "ckpt")
"""Runs that differ in these alone are repetitions of one setting, and are averaged."""
LINES = {"base/miou": "tab:blue", "lora/miou": "tab:green", "val/miou": "tab:orange", "upper_bound": "tab:gray"}
"""Figures that the plot shows, and their colours."""
DRAWN = {variant: {f"{variant}/{name}": f"C{k}" for k, name in enumerate(CATEGORIES)} for variant in ("lora", "base")}
"""Figures that it shows instead where images were measured: of the LoRA, or else of the base model."""


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
    figures = numbers(metrics)
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
        rows.append({"run": run.name, "overrides": overrides, "figures": numbers(_metrics(run / "metrics.json"))})
    return rows


def trained_blocks(folder: Path) -> dict[str, dict[int, float]]:
    """What a sweep over `expert_layer` found: for each block the mean over its runs.

    Args:
        folder: of the sweep; its sweep.csv is read.

    Returns:
        By block: "trained", the mIoU of the LoRA that was trained on it, and "trained gain", what that adds to the base model's block.

    Raises:
        UserError: there is no such table, or it is of another sweep.
    """
    file, runs = folder / "sweep.csv", defaultdict(list)
    if not file.is_file():
        raise UserError(f"there is no {file}: give the folder of a sweep, and make its table with `seg4diff sweep {folder}`.")
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row.get("expert_layer", "").isdecimal() and row.get("base/miou") and row.get("lora/miou"):
                runs[int(row["expert_layer"])].append((float(row["lora/miou"]), float(row["lora/miou"]) - float(row["base/miou"])))
    if not runs:
        raise UserError(f"{file} has no scores by expert_layer: give the folder of a finished `python train.py -m expert_layer=0,1,...`.")
    parts = {block: [mean(values) for values in zip(*own, strict=True)] for block, own in sorted(runs.items())}
    return {name: {block: own[k] for block, own in parts.items()} for k, name in enumerate(("trained", "trained gain"))}


def _metrics(file: Path) -> dict[str, Any]:
    """The content of metrics.json, empty where the run has not finished; a file that cannot be read leaves the other runs their table."""
    try:
        return read_metrics(file) if file.exists() else {}
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
    heading = f"sweep over {', '.join(varied) or 'nothing'}: {folder}"
    shown = [name for name, figures in TABLES.items() if any(figure in run["figures"] for figure in figures for run in runs)]
    for name in shown or [""]:
        screen().print(_table(runs, settings, varied, name, heading))
    if varied and any(run["figures"] for run in runs):
        with whole_file(folder / "sweep.png") as partial, plain_text():
            plot_sweep(runs, settings or varied, partial)


def _table(runs: list[dict[str, Any]], settings: list[str], varied: list[str], name: str, heading: str) -> Table:
    """One of `TABLES`: one row per run, then one of mean ± standard deviation for every setting that was repeated."""
    shown = [figure for figure in TABLES[name] if any(figure in run["figures"] for run in runs)]
    caption = None if all(run["figures"] for run in runs) else "a run without figures has not finished"
    if name:  # ten columns, and a terminal of 80
        table = Table(title=f"{title(name)} (%), {heading}", caption=caption, padding=(0, 0), show_edge=False)
    else:
        table = Table(title=heading, caption=caption)
    for column in [*(key.rpartition(".")[2] for key in varied), *(title(figure.removeprefix(f"{name}/")) for figure in shown)]:
        table.add_column(column, justify="right", overflow="fold")
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
    """Plot the figures of `LINES`, or else of `DRAWN`, as far as the runs have them.

    A grid is plotted over its first setting, with one line for each value of the others; what is no grid, such as a search, as points over
    each of its settings.
    """
    from matplotlib.figure import Figure

    lines = next((own for own in (LINES, *DRAWN.values()) if any(name in run["figures"] for name in own for run in runs)), LINES)
    quantity = "mIoU" if lines is LINES else "right answers"
    is_grid = math.prod(len(_values(runs, key)) for key in settings) == len({_setting(run, settings) for run in runs})
    panels = settings[:1] if is_grid else settings
    figure = Figure(figsize=(3 + 4 * len(panels), 3.8), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        places = places_of(_values(runs, key))
        if is_grid:
            _draw_lines(axes, runs, key, settings[1:], places, lines)
        else:
            for name, colour in lines.items():
                _draw_points(axes, runs, key, places, name, color=colour, label=title(name))
        _mark(axes, places)
        axes.set(xlabel=key, ylabel=f"{quantity} (%)", title=f"{quantity} over {key}", ylim=(0, 100) if is_grid else None)
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


def _draw_lines(axes: "Axes", runs: list[dict], key: str, others: list[str], places: dict[str, float], lines: dict[str, str]) -> None:
    """A line through the means of each figure, for each value of the other settings."""
    groups = list(dict.fromkeys(_setting(run, others) for run in runs))
    for (name, colour), (number, group) in itertools.product(lines.items(), enumerate(groups)):
        members = [run for run in runs if _setting(run, others) == group]
        points = _draw_points(axes, members, key, places, name, color=colour)
        means = [(x, mean(y for other, y in points if other == x)) for x in sorted({x for x, _ in points})]
        if means:
            x, y = zip(*means, strict=True)
            label = " ".join([title(name), *map(_short, group)])
            axes.plot(x, y, label=label, color=colour, linestyle=("-", "--", ":", "-.")[number % 4])


def _draw_points(axes: "Axes", runs: list[dict], key: str, places: dict[str, float], name: str, **style: Any) -> list[tuple[float, float]]:
    """A point for every run that has the figure; returns them."""
    points = [(places[run["overrides"].get(key, "")], 100 * run["figures"][name]) for run in runs if name in run["figures"]]
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=14, **style)
    return points


def _values(runs: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(run["overrides"].get(key, "") for run in runs))


def _setting(run: dict[str, Any], keys: list[str]) -> tuple[str, ...]:
    return tuple(run["overrides"].get(key, "") for key in keys)


def _figure(name: str, values: list[float]) -> str:
    """A value, or mean and standard deviation of several, as the table shows it."""
    parts = [mean(values), stdev(values)] if len(values) > 1 else values
    return " ± ".join(as_text(name, part) for part in parts)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _short(value: str) -> str:
    """The value as table and plot show it: a long number rounded, of anything else that is long the end."""
    number = _number(value)
    return value if len(value) <= SHORT else value[-LONGEST_CELL:] if number is None else f"{number:.4g}"

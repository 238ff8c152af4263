"""The figures of a stored analysis, drawn by their plans."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seg4diff.analysis import drawing
from seg4diff.analysis.plans import Columns, Heat, Lines, Plan
from seg4diff.analysis.stored import Analysis, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(analysis: Analysis, study: str, plan: Plan) -> "Figure":
    """Draw a figure of a study."""
    table, blocks, sigmas = analysis.tables[study], analysis.blocks, levels_of(analysis, study, plan)
    one_map = all(isinstance(row, Heat) and row.of == "sigma" for row in plan)
    columns = 1 if one_map else len(sigmas)
    figure, axes = drawing.new_figure(len(plan), columns, blocks, [1.75 if isinstance(row, Lines) else 1.6 for row in plan])
    styles = drawing.styles_of([label for row in plan if isinstance(row, Lines) for label in row.series])
    for k, (row, panels) in enumerate(zip(plan, axes.tolist(), strict=True)):
        if isinstance(row, Lines):
            _draw_lines(analysis, study, row, sigmas, panels, styles)
        else:
            _draw_heat(figure, analysis, table, row, panels)
        for panel in panels:
            drawing.mark_blocks(panel, blocks, analysis.marked, label=k + 1 == len(plan), frame=isinstance(row, Heat))
    for panel, sigma in zip(axes[0], sigmas, strict=False):
        if not one_map and sigma is not None:
            panel.set_title(f"noise level {sigma:g}", fontsize=drawing.SMALL + 1, color=drawing.INK)
    return figure


def levels_of(analysis: Analysis, study: str, plan: Plan) -> Sequence[float | None]:
    """The noise levels of a figure, [None] where its lines have none."""
    series = [columns for row in plan if isinstance(row, Lines) for columns in row.series.values()]
    rows = [row for columns in series for row in analysis.tables[study].where(columns).rows]
    return [None] if rows and all(row["sigma"] is None for row in rows) else analysis.sigmas


def _draw_lines(
    analysis: Analysis,
    study: str,
    row: Lines,
    sigmas: Sequence[float | None],
    panels: Sequence["Axes"],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    """A row of panels, which share the y axis."""
    table = analysis.tables[study]
    log = is_log(table, row, sigmas)
    for panel, sigma in zip(panels, sigmas, strict=True):
        series, dotted = values_of(table, row.series, sigma, row.factor), values_of(table, row.dotted, sigma, row.factor)
        if log:  # which has no place for 0
            series = {label: np.where(values > 0, values, np.nan) for label, values in series.items()}
        bands = {}
        if row.interval is not None and sigma == analysis.sigma and study in analysis.miou_intervals:
            bands[row.interval] = row.factor * analysis.miou_intervals[study]
        if row.bars:
            gains = analysis.gain_intervals if study == "affinity" and sigma == analysis.sigma else None
            drawing.draw_bars(panel, next(iter(series.values())), None if gains is None else row.factor * gains)
        else:
            drawing.draw_lines(panel, series, dotted, bands, styles)
        if row.level is not None:
            panel.axhline(row.level, color=drawing.GREY, linestyle=":", linewidth=1.2)
    if log:
        drawing.use_log(panels[0])
    panels[0].set_ylim(*row.limits)
    panels[0].set_ylabel(row.axis, fontsize=drawing.SMALL, color=drawing.INK)
    if not row.bars:
        drawing.add_legend(panels[-1])


def is_log(table: Table, row: Lines, sigmas: Sequence[float | None]) -> bool:
    """Whether the y axis of a row is logarithmic: it was asked for, and there is a value that it can show."""
    return row.log and any((own > 0).any() for sigma in sigmas for own in values_of(table, row.series, sigma, row.factor).values())


def values_of(table: Table, series: Mapping[str, Columns], sigma: float | None, factor: float) -> dict[str, np.ndarray]:
    """The values of each series at a noise level, (B,), by label."""
    return {label: factor * table.where(columns).of_blocks(sigma) for label, columns in series.items()}


def _draw_heat(figure: "Figure", analysis: Analysis, table: Table, row: Heat, panels: Sequence["Axes"]) -> None:
    own = table.where(row.columns)
    if row.of == "sigma":
        maps = [row.factor * np.stack([own.of_blocks(sigma) for sigma in analysis.sigmas])]
    else:
        maps = [row.factor * own.of_heads(sigma) for sigma in analysis.sigmas]
    highest = max((float(np.nanmax(values)) for values in maps if np.isfinite(values).any()), default=1.0)
    images = [drawing.draw_heat(panel, values, highest) for panel, values in zip(panels, maps, strict=True)]
    panels[0].set_ylabel("head" if row.of == "head" else "noise level", fontsize=drawing.SMALL, color=drawing.INK)
    if row.of == "sigma":
        panels[0].set_yticks(range(len(analysis.sigmas)), [f"{sigma:g}" for sigma in analysis.sigmas])
    drawing.add_scale(figure, images[-1], panels, row.name)

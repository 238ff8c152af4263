"""How figures of an analysis look: lines over the blocks, heat maps, sheets of small pictures; they read on light and dark pages.

Nothing has a background. Text and axes are drawn in `INK`, which becomes the colour of the page's text in SVG; every other colour has a
contrast of at least 3 to white and to near black.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from seg4diff.disk import save_picture, write_text
from seg4diff.evaluation.display import picture_of
from seg4diff.screen import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1a1c1f"
GREY = "#7d858f"
EXPERT = "#d9822b"
STYLES = [
    ("#3f87d9", "o"),
    ("#d1495b", "s"),
    ("#2f9e6e", "^"),
    ("#a36bd0", "D"),
    ("#b08a1e", "v"),
    ("#3b9dad", "P"),
    ("#c764a0", "X"),
    ("#8a8f2a", "*"),
]
"""Colour and marker of each series, so that colour alone tells nothing apart."""
WIDTH = 7.2
"""Inches of a figure, as far as its blocks fit into them."""
DOTS = 150
"""Pixels of an inch in PNG."""
MARGIN = 1.9
"""Inches beside the panels: labels of the axis, legend."""
SMALL = 8
"""Points of all text but titles."""
BAND = 12
"""Small pictures side by side on a sheet."""


def empty(width: float, height: float) -> "Figure":
    """A figure without a background; sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def new_figure(rows: int, columns: int, blocks: int, heights: Sequence[float]) -> tuple["Figure", np.ndarray]:
    """A figure of panels whose x axis are blocks, as wide as they need; heights in inches."""
    panel = max((WIDTH - MARGIN) / columns, 0.09 * blocks, 2.4)
    figure = empty(panel * columns + MARGIN, sum(heights) + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row", height_ratios=heights)
    for own in axes.flat:
        own.patch.set_alpha(0)
        own.tick_params(labelsize=SMALL, colors=INK)
        for spine in own.spines.values():
            spine.set_color(GREY)
    return figure, axes


def mark_blocks(axes: "Axes", blocks: int, expert: int | None, *, label: bool, frame: bool = False) -> None:
    """The x axis of a panel: numbers of blocks, and a band at the expert, or a frame around it."""
    step = next(own for own in (1, 2, 5, 10, 20, 50, 100) if blocks <= 16 * own or own == 100)
    axes.set_xticks(range(0, blocks, step))
    axes.set_xlim(-0.5, blocks - 0.5)
    if label:
        axes.set_xlabel("block", fontsize=SMALL, color=INK)
    if expert is not None and frame:
        axes.axvspan(expert - 0.5, expert + 0.5, fill=False, edgecolor=EXPERT, linewidth=1.8, label="_expert")
    elif expert is not None:
        axes.axvspan(expert - 0.5, expert + 0.5, color=EXPERT, alpha=0.22, linewidth=0, zorder=0, label="_expert")


def draw_lines(
    axes: "Axes",
    series: Mapping[str, np.ndarray],
    dotted: Mapping[str, np.ndarray],
    bands: Mapping[str, np.ndarray],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    """A line over the blocks for each series; its reference dotted, and its interval (B, 2) shaded, in the same colour.

    A value that is missing is a gap; a series without any value says so in the legend.
    """
    for label, values in series.items():
        colour, marker = styles[label]
        x, size = range(len(values)), 4 if len(values) <= 24 else 2.5
        missing = "" if np.isfinite(values).any() else " (missing)"
        axes.plot(x, values, label=label + missing, color=colour, marker=marker, markersize=size, linewidth=1.4)
        if label in dotted:
            axes.plot(x, dotted[label], color=colour, linestyle=":", linewidth=1.4, label=f"_reference of {label}")
        if label in bands:
            axes.fill_between(x, *bands[label].T, color=colour, alpha=0.22, linewidth=0)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_depth(axes: "Axes", depth: np.ndarray, values: np.ndarray, ringed: int | None, label: str, style: tuple[str, str]) -> None:
    """A line over the depth of the blocks, with a ring around one of them."""
    axes.plot(depth, values, label=label, color=style[0], marker=style[1], markersize=3.5, linewidth=1.4)
    if ringed is not None and np.isfinite(values[ringed]):
        axes.plot(depth[ringed], values[ringed], marker="o", markersize=10, fillstyle="none", color=INK, linestyle="none", clip_on=False)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)


def draw_points(axes: "Axes", series: Mapping[str, np.ndarray], intervals: Mapping[str, np.ndarray]) -> None:
    """A point with its interval (B, 2) for each block."""
    for label, values in series.items():
        axes.vlines(range(len(values)), *intervals[label].T, color=GREY, linewidth=1.2)  # the score may lie outside
        axes.plot(range(len(values)), values, STYLES[0][1], markersize=4, color=STYLES[0][0], label=f"_{label}")
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def add_legend(axes: "Axes") -> None:
    """The legend of a row of panels, to the right of the last of them."""
    axes.legend(fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, labelcolor=INK)


def draw_bars(axes: "Axes", values: np.ndarray, intervals: np.ndarray | None = None) -> None:
    """A bar for each block, up or down from zero, with its interval (B, 2)."""
    colours = [STYLES[1][0] if value < 0 else STYLES[2][0] for value in values]
    axes.bar(range(len(values)), values, color=colours, width=0.7)
    if intervals is not None:
        axes.vlines(range(len(values)), *intervals.T, color=INK, linewidth=1.2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_heat(axes: "Axes", values: np.ndarray, highest: float) -> Any:
    """A heat map (rows, B) in colours from 0 to `highest`; what is missing is hatched."""
    axes.patch.set(alpha=1, facecolor="none", hatch="////", edgecolor=GREY)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=highest, aspect="auto", interpolation="none")
    step = next(own for own in (1, 2, 4, 8, 16) if len(values) <= 8 * own or own == 16)
    axes.set_yticks(range(0, len(values), step))
    return image


def add_scale(figure: "Figure", image: Any, axes: Sequence["Axes"], label: str) -> None:
    """The colour scale of a row of heat maps."""
    bar = figure.colorbar(image, ax=list(axes), pad=0.02, fraction=0.05)
    bar.set_label(label, fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, colors=INK)
    bar.outline.set_edgecolor(GREY)


def draw_sheet(rows: Mapping[str, Sequence[np.ndarray | None]], columns: Sequence[str], expert: str | None, label: str) -> "Figure":
    """Small pictures (h, w, 3) uint8 in rows with a name; more than `BAND` columns go on below. None leaves a gap."""
    height, width = next(tile.shape[:2] for row in rows.values() for tile in row if tile is not None)
    bands = [range(first, min(first + BAND, len(columns))) for first in range(0, len(columns), BAND)]
    gap, across = max(1, width // 10), max(4, min(BAND, len(columns)))
    inches = (WIDTH - 1.6) / across * (height + gap) / (width + gap) * len(rows)
    figure = empty(WIDTH, len(bands) * (inches + 0.45) + 0.1)
    for axes, band in zip(figure.subplots(len(bands), 1, squeeze=False)[:, 0], bands, strict=True):
        page = np.zeros((len(rows) * (height + gap) - gap, across * (width + gap) - gap, 4), dtype=np.uint8)
        for top, row in enumerate(rows.values()):
            for left, tile in enumerate(row[k] for k in band):
                if tile is not None:
                    page[top * (height + gap) :, left * (width + gap) :][:height, :width] = np.dstack([tile, np.full((height, width), 255)])
        axes.patch.set_alpha(0)
        axes.imshow(page, interpolation="none")
        axes.set_yticks([k * (height + gap) + (height - 1) / 2 for k in range(len(rows))], list(rows), fontsize=SMALL, color=INK)
        axes.set_xticks([k * (width + gap) + (width - 1) / 2 for k in range(len(band))], [columns[k] for k in band], fontsize=SMALL)
        axes.tick_params(length=0, labelcolor=INK)
        for tick in axes.get_xticklabels():
            if tick.get_text() == expert:
                tick.set(weight="bold", bbox={"facecolor": EXPERT, "alpha": 0.35, "linewidth": 0, "pad": 1.5})
        axes.spines[:].set_visible(False)
    axes.set_xlabel(label, fontsize=SMALL, color=INK)
    return figure


def draw_square(values: np.ndarray, names: Sequence[str], label: str) -> "Figure":
    """A square of values between -1 and 1, in colours about 0, with its numbers; what is missing is hatched."""
    side, words = max(2.6, 0.48 * len(names)), 0.075 * max(map(len, names))  # inches
    figure = empty(side + words + 1.4, side + 0.65 * words + 0.3)
    axes = figure.subplots()
    axes.patch.set(alpha=1, facecolor="none", hatch="////", edgecolor=GREY)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=SMALL - 1, color="white" if abs(value) > 0.6 else "black"
            )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=SMALL)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.tick_params(colors=GREY, labelcolor=INK)
    axes.spines[:].set_color(GREY)
    add_scale(figure, image, [axes], label)
    return figure


def standalone(svg: str) -> str:
    """An SVG file whose text is dark on a light screen and light on a dark one."""
    style = "<style>:root{color:#1a1c1f}@media(prefers-color-scheme:dark){:root{color:#e6e8eb}}</style>"
    return svg.replace(">", f">{style}", 1)


def styles_of(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label."""
    return {label: STYLES[k % len(STYLES)] for k, label in enumerate(dict.fromkeys(labels))}


def use_log(axes: "Axes") -> None:
    """A logarithmic y axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def write_figure(figure: "Figure", folder: Path, name: str) -> tuple[str, Image.Image]:
    """Write a figure as SVG, without a background, and as PNG on white; returns `as_svg` and the picture."""
    svg = as_svg(figure)
    figure.set_layout_engine("none")  # it is laid out
    figure.set_dpi(DOTS)
    figure.patch.set(facecolor="white", alpha=1)
    picture = picture_of(figure)
    write_text(folder / f"{name}.svg", standalone(svg))
    save_picture(picture, folder / f"{name}.png")
    return svg, picture


def as_svg(figure: "Figure") -> str:
    """A figure as an SVG element without anything from elsewhere; text stays text, and `INK` is the colour of the text around it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "seg4diff"}), plain_text():
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue()[file.getvalue().index("<svg") :], flags=re.DOTALL)
    return svg.replace(INK, "currentColor")

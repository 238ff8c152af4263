"""What the finder said, in the report."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seg4diff.analysis import drawing, html
from seg4diff.analysis.evidence import MEASURES
from seg4diff.analysis.html import Element, element
from seg4diff.analysis.plans import PERCENT
from seg4diff.analysis.stored import Analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Keep = Callable[[str, "Figure", str], Element]
"""Name, figure and description -> the figure as it stands in the page."""
RULES = {
    "masks": "Blocks, and guesses that do not look at the image, compete by the mIoU of their maps on resamples of images and classes.",
    "no masks": "There are no masks: a block wins a resample of the images if it comes first in every study that counts.",
}


def show_verdict(own: Analysis, keep: Keep) -> Iterator[Element]:
    """The verdict, how it came about, and the ranking; one sentence where the finder has not run."""
    finder = own.content.get("finder")
    if not finder:
        yield element("p", f"The finder has not looked at this analysis. Figures mark block {own.expert}, the expert of the settings.")
        return
    yield element("p", element("strong", finder["sentence"]), class_="found")
    if finder["rule"] is None:
        return
    yield element("p", RULES[finder["rule"]], f" A block is the expert if it wins at least {PERCENT * finder['confidence']:.0f} % of them.")
    if other := finder.get("without_masks"):
        yield element("p", "Without the masks, the verdict would be: ", other["sentence"])
    over = "images and classes" if finder["rule"] == "masks" else "images"
    text = f"Score of each block with its 95 % interval, a bootstrap over {over}, and the share of the resamples that it wins."
    yield keep("ranking", draw_ranking(own, finder), text)
    yield from _ranking(finder)
    if len(finder["correlations"]["names"]) > 1:
        yield keep(
            "correlations",
            draw_correlations(finder["correlations"]),
            "Spearman's rank correlation over the blocks, of each pair of measures.",
        )


def draw_ranking(own: Analysis, finder: dict[str, Any]) -> "Figure":
    """Score with its interval, and the share of resamples won, of each block."""
    figure, axes = drawing.new_figure(2, 1, own.blocks, [2, 1.3])
    masks = finder["rule"] == "masks"
    factor = PERCENT if masks else 1.0
    blocks = {row["block"]: row for row in finder["ranking"]}
    score, wins = np.full(own.blocks, np.nan), np.full(own.blocks, np.nan)
    interval = np.full((own.blocks, 2), np.nan)
    for block, row in blocks.items():
        score[block], wins[block], interval[block] = factor * row["score"], PERCENT * row["wins"], [factor * end for end in row["interval"]]
    label = "mIoU (%)" if masks else "mean rank (1 = first)"
    drawing.draw_points(axes[0, 0], {label: score}, {label: interval})
    drawing.draw_bars(axes[1, 0], wins)
    axes[0, 0].set_ylabel(label, fontsize=drawing.SMALL, color=drawing.INK)
    axes[1, 0].set_ylabel("resamples\nwon (%)", fontsize=drawing.SMALL, color=drawing.INK)
    axes[0, 0].set_ylim(*((0, 100) if masks else (own.blocks + 0.5, 0.5)))
    axes[1, 0].set_ylim(0, 100)
    for name, value in sorted(finder["rivals"].items(), key=lambda item: -item[1])[:1]:
        axes[0, 0].axhline(factor * value, color=drawing.GREY, linestyle=":", label=f"best guess without\nthe image: {name}")
        drawing.add_legend(axes[0, 0])
    for panel, last in zip(axes[:, 0], (False, True), strict=True):
        drawing.mark_blocks(panel, own.blocks, finder["expert"], label=last)
    return figure


def draw_correlations(correlations: dict[str, Any]) -> "Figure":
    """A square of rank correlations, from -1 to 1 about 0."""
    values = np.array([[np.nan if own is None else own for own in row] for row in correlations["spearman"]], dtype=float)
    return drawing.draw_square(values, list(map(title, correlations["names"])), "rank correlation")


def title(name: str) -> str:
    """A measure in words."""
    return MEASURES[name].title if name in MEASURES else name


def _ranking(finder: dict[str, Any]) -> Iterator[Element]:
    """Who won; and in a fold, the number of each block in every measure, one measure in a line."""
    ranking = finder["ranking"]
    rows = [
        [f"{row['block']}", _number(row["score"]), "[{}, {}]".format(*map(_number, row["interval"])), f"{PERCENT * row['wins']:.0f} %"]
        for row in ranking
    ]
    marked: Sequence[bool] = [row["block"] == finder["expert"] for row in ranking]
    head = ["block", "mIoU" if finder["rule"] == "masks" else "mean rank", "interval", "resamples won"]
    yield html.table("Ranking of the blocks, the best first; the expert is marked", head, rows, marked)
    lines = [[title(name), *(_number(row["evidence"][name]) for row in ranking)] for name in ranking[0]["evidence"]]
    every = html.table(
        "Every measure at each block, in the order of the ranking", ["measure", *(str(row["block"]) for row in ranking)], lines
    )
    yield element("details", element("summary", "Every measure"), every)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.3f}"

"""Stored analyses of several models side by side, block by block along their depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seg4diff.analysis import drawing
from seg4diff.analysis.plans import PERCENT, Columns
from seg4diff.analysis.showed import ranked
from seg4diff.analysis.stored import Analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measure:
    """One number for each block.

    Attributes:
        axis: what it is, with its unit, for figures.
        study: whose table it is in.
        columns: lines of the table; of several lines of a block, the first counts.
        factor: values are multiplied by it.
        level: whether it has a noise level.
    """

    axis: str
    study: str
    columns: Columns
    factor: float = 1.0
    level: bool = True

    def of_blocks(self, analysis: Analysis) -> np.ndarray:
        """The number of each block at the noise level at which the model is read, (B,); NaN where it has none."""
        if self.study not in analysis.tables:
            return np.full(analysis.blocks, np.nan)
        return self.factor * analysis.tables[self.study].first(self.columns).of_blocks(analysis.sigma if self.level else None)


MEASURES = {
    "i2t_per_key": Measure("I2T attention per key\n(1 = uniform)", "budget", {"quantity": "relative", "quadrant": "i2t"}),
    "prompt_norm": Measure("norm of the values\nof the prompt", "norms", {"quantity": "norm", "tokens": "prompt"}),
    "miou": Measure("mIoU of I2T maps (%)", "segmentation", {"quantity": "miou", "direction": "i2t"}, PERCENT),
    "blur_velocity": Measure(
        "blurred I2T: change of\nthe velocity (relative)", "causal", {"quantity": "velocity", "perturbation": "blur", "task": "segmenting"}
    ),
    "blur_pixels": Measure(
        "blurred I2T: change of\nthe pixels (0 to 1)",
        "causal",
        {"quantity": "pixels", "perturbation": "blur", "task": "generating"},
        level=False,
    ),
}
"""Columns of the table, in this order."""


def names_of(analyses: Sequence[Analysis]) -> list[str]:
    """A name for each analysis: of the model, with the folder where two are of the same."""
    names = [own.name for own in analyses]
    return [name if names.count(name) == 1 else f"{name} ({own.folder.name})" for name, own in zip(names, analyses, strict=True)]


def depths(blocks: int) -> np.ndarray:
    """Position of each block between the first (0) and the last (1)."""
    return np.arange(blocks) / max(1, blocks - 1)


def atlas_rows(analyses: Sequence[Analysis]) -> list[dict[str, str | int | float | bool | None]]:
    """A line for each block of each model: model, block, depth, whether it is the expert, and `MEASURES`; None = missing."""
    rows = []
    for name, own in zip(names_of(analyses), analyses, strict=True):
        values = {key: measure.of_blocks(own) for key, measure in MEASURES.items()}
        for block, depth in enumerate(depths(own.blocks)):
            found = {key: float(of[block]) if np.isfinite(of[block]) else None for key, of in values.items()}
            rows.append({"model": name, "block": block, "depth": float(depth), "expert": block == own.marked, **found})
    return rows


def best_blocks(analysis: Analysis) -> dict[str, str]:
    """The highest block of each measure and its value, as the printed table has it; "" = missing."""
    found = {}
    for key, measure in MEASURES.items():
        values = measure.of_blocks(analysis)
        order = ranked(values)
        found[key] = f"{order[0]}: {values[order[0]]:.3g}" if order else ""
    return found


def draw_atlas(analyses: Sequence[Analysis]) -> "Figure":
    """A panel for each measure that a model has, a line for each model over the depth of its blocks, a ring around its expert."""
    shown = {key: own for key, own in MEASURES.items() if any(np.isfinite(own.of_blocks(analysis)).any() for analysis in analyses)}
    names = names_of(analyses)
    styles = drawing.styles_of(names)
    figure, axes = drawing.new_figure(max(1, len(shown)), 1, 0, [1.8] * max(1, len(shown)))
    for panel, measure in zip(axes[:, 0], shown.values(), strict=False):
        for name, own in zip(names, analyses, strict=True):
            drawing.draw_depth(panel, depths(own.blocks), measure.of_blocks(own), own.marked, name, styles[name])
        panel.set_ylabel(measure.axis, fontsize=drawing.SMALL, color=drawing.INK)
        panel.set_ylim(0, None)
    axes[-1, 0].set_xlabel("depth of the block (0 = first, 1 = last); ring: the expert", fontsize=drawing.SMALL, color=drawing.INK)
    drawing.add_legend(axes[0, 0])
    return figure

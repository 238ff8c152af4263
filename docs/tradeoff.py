"""Draw what recipes gain in segmentation against what they change in generation: `python docs/tradeoff.py outputs/drawn/*/`.

Each folder is a measurement of `python evaluate.py evaluation=generation ckpt=<run>`. The run that it names must have been tested, as
`python train.py` does. Folders `<recipe>-0`, `<recipe>-1`, ... are seeds of one recipe and share a colour.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

CATEGORIES = {
    "presence": "things that are there",
    "counting": "right counts",
    "two": "both of two things",
    "shade": "right shade",
    "size": "right size",
    "place": "right place",
    "structure": "fit of the outlines",
}
APART = 0.3
"""Points of mIoU by which the seeds of a recipe are drawn side by side, as their gains hardly differ."""
OUT = Path(__file__).parent / "images" / "tradeoff.png"


def read(folder: Path) -> tuple[str, float, dict[str, Any]]:
    """Recipe, gain of mIoU in points, and the measurement of a folder."""
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    trained = json.loads((Path(measured["ckpt"]) / "metrics.json").read_text(encoding="utf-8"))
    return folder.name.rpartition("-")[0] or folder.name, 100 * trained["gain/miou"], measured


def main(given: Sequence[str] | None = None) -> None:
    """Write the figure, by default docs/images/tradeoff.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(given)
    points = [read(folder) for folder in arguments.folders]
    colours = {recipe: f"C{k}" for k, recipe in enumerate(dict.fromkeys(recipe for recipe, _, _ in points))}
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, layout="constrained")
    for ax, (category, title) in zip(axes.flat, CATEGORIES.items(), strict=False):
        ax.axhline(0, color="0.6", linewidth=1)
        for k, (recipe, gain, measured) in enumerate(points):
            apart = APART * sum(other == recipe for other, *_ in points[:k])
            middle, low, high = (100 * measured[f"gain/{category}{end}"] for end in ("", "_low", "_high"))
            ax.errorbar(gain + apart, middle, [[middle - low], [high - middle]], fmt="o", color=colours[recipe], capsize=3)
        ax.set_title(title)
    for ax in axes[:, 0]:
        ax.set_ylabel("change in points, 95 % interval")
    for ax in (*axes[1, :3], axes[0, 3]):
        ax.set_xlabel("gain of mIoU in points")
        ax.tick_params(labelbottom=True)
    legend = axes[1, 3]
    legend.axis("off")
    handles = [plt.Line2D([], [], color=colour, marker="o", linestyle="") for colour in colours.values()]
    legend.legend(handles, list(colours), title="recipe; a point is a seed,\nseeds are drawn side by side", loc="center", frameon=False)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()

"""Measure the evaluator itself on rendered scenes: `python -m seg4diff.tiny`, see --help."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from seg4diff.data.sample import image_to_tensor, tensor_to_image
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError
from seg4diff.presets import Preset
from seg4diff.resources import assets_dir
from seg4diff.screen import screen
from seg4diff.tiny.calibration import Change, blurred, calibrate, noised

SPLIT = "validation"
"""Split of the scenes; the thresholds of the evaluator were chosen on another."""


def _reencoded(folder: Path) -> Change:
    """Encode and decode with the autoencoder of a model."""
    preset = Preset.named("tiny_sd3")
    backbone = preset.adapter.from_pretrained(path=str(folder), **preset.options)

    @torch.no_grad()
    def change(image: np.ndarray) -> np.ndarray:
        pixels = image_to_tensor(Image.fromarray(image), None)[None]
        return np.array(tensor_to_image(backbone.decode_image(backbone.encode_image(pixels))[0]))

    return change


def measure(folder: Path, scenes: int) -> Table:
    """One row per kind of answer, one column per change of the scenes.

    Args:
        folder: of the model whose autoencoder is used.
        scenes: number of scenes.

    Raises:
        UserError: there is no such model, or no scene.
    """
    if scenes < 1:
        raise UserError(f"the number of scenes must be at least 1, found {scenes}.")
    changes = {"as rendered": lambda image: image, "blurred": blurred, "noised": noised, "re-encoded": _reencoded(folder)}
    rendered = [make_scene(0, SPLIT, index) for index in range(scenes)]
    scores = {name: calibrate(rendered, change) for name, change in changes.items()}
    table = Table("", *scores, title=f"the evaluator on {scenes} {SPLIT} scenes: precision / recall, %")
    for kind in next(iter(scores.values())):
        table.add_row(kind, *(f"{100 * own[kind].precision:.1f} / {100 * own[kind].recall:.1f}" for own in scores.values()))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m seg4diff.tiny", description="Precision and recall of the evaluator on rendered scenes."
    )
    parser.add_argument("--model", type=Path, default=assets_dir() / "tiny-sd3", help="folder whose autoencoder is used; default: tiny-sd3")
    parser.add_argument("--scenes", type=int, default=300, help="number of scenes; default: 300")
    options = parser.parse_args(arguments)
    try:
        screen().print(measure(options.model, options.scenes))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

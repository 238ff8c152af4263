"""Measure the evaluator itself: `python -m seg4diff.tiny [model folder] [number of scenes]`, default assets/tiny-sd3 and 300."""

import sys

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.data.sample import image_to_tensor, tensor_to_image
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.screen import screen
from seg4diff.tiny.calibration import Change, blurred, calibrate, noised


def _reencoded(folder: str) -> Change:
    """Encode and decode with the autoencoder of a model."""
    backbone = SD3Backbone.from_pretrained(path=folder, t5_length=0)

    @torch.no_grad()
    def change(image: np.ndarray) -> np.ndarray:
        pixels = image_to_tensor(Image.fromarray(image), None)[None]
        return np.array(tensor_to_image(backbone.decode_image(backbone.encode_image(pixels))[0]))

    return change


def main(folder: str = "assets/tiny-sd3", scenes: str = "300") -> None:
    """Print one row per change."""
    rendered = [make_scene(0, "test", index) for index in range(int(scenes))]
    changes = {"as rendered": lambda image: image, "blurred": blurred, "noised": noised, "re-encoded": _reencoded(folder)}
    table = Table(title=f"the evaluator on {len(rendered)} scenes: precision / recall, %")
    for row, change in changes.items():
        scores = calibrate(rendered, change)
        if not table.columns:
            table.add_column("scenes")
            for name in scores:
                table.add_column(name, justify="right")
        table.add_row(row, *(f"{100 * score.precision:.1f} / {100 * score.recall:.1f}" for score in scores.values()))
    screen().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])

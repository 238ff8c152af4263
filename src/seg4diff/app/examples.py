"""Pictures that the page starts with: toy scenes, drawn when it opens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.disk import save_picture

SIDE, INDICES = 384, (33, 3, 8, 14)
"""Side in pixels of the scenes, and which of the test split they are."""


@dataclass(frozen=True)
class Example:
    """A picture and words for it."""

    file: Path
    words: tuple[str, ...]


def draw_examples(folder: Path) -> list[Example]:
    """Draw the scenes into a folder; their words are the classes that are in them."""
    found = []
    for index in INDICES:
        scene = make_scene(0, "test", index, SIDE)
        example = Example(folder / f"scene-{index}.png", tuple(CLASS_NAMES[k] for k in np.unique(scene.mask)))
        save_picture(Image.fromarray(scene.image), example.file)
        found.append(example)
    return found

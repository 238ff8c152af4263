"""Pictures of a few example images, kept on disk as they are made."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seg4diff.disk import whole_file

NAME = "{study}-{image}.safetensors"
"""File of the pictures that a study made of an image."""
EXAMPLES = "images"
"""In place of a study: the images themselves."""
NO_WORD = 255
"""Label of the pixels of an example whose class is not in its prompt."""


class Album:
    """Keeps what studies show of a few images, in one file for each study and image.

    Args:
        folder: where the files go.
        images: numbers of the images of which pictures are kept.
    """

    def __init__(self, folder: Path, images: Sequence[int]) -> None:
        self._folder, self._images = folder, frozenset(images)
        self._open: dict[tuple[str, int], dict[str, Tensor]] = defaultdict(dict)
        self._notes: dict[tuple[str, int], dict[str, str]] = {}

    def wants(self, image: int) -> bool:
        """Whether pictures of this image are kept."""
        return image in self._images

    def add(self, study: str, image: int, name: str, picture: Tensor) -> None:
        """Keep a picture until `save`: (H, W, 3) uint8, or maps (C, h, w) float."""
        self._open[study, image][name] = picture.cpu().contiguous()

    def introduce(self, image: int, picture: Tensor, labels: Tensor | None, prompt: str, words: Sequence[str]) -> None:
        """Keep an example itself: its pixels (H, W, 3) uint8, positions in `words` (H, W) uint8 or `NO_WORD`, and its prompt."""
        self.add(EXAMPLES, image, "image", picture)
        if labels is not None:
            self.add(EXAMPLES, image, "labels", labels)
        self._notes[EXAMPLES, image] = {"prompt": prompt, "words": json.dumps(list(words))}

    def save(self) -> None:
        """Write what was added since the last time."""
        for key, pictures in self._open.items():
            with whole_file(self._folder / NAME.format(study=key[0], image=key[1])) as partial:
                save_file(pictures, partial, metadata=self._notes.get(key))
        self._open.clear()
        self._notes.clear()


def read_album(folder: Path, study: str) -> dict[int, dict[str, Tensor]]:
    """The pictures that a study kept, by number of the image and name."""
    found = {}
    for file in folder.glob(NAME.format(study=study, image="*")):
        if number := re.fullmatch(r"(\d+)\.safetensors", file.name.removeprefix(f"{study}-")):
            found[int(number[1])] = load_file(file)
    return dict(sorted(found.items()))


def read_prompts(folder: Path) -> dict[int, tuple[str, list[str]]]:
    """Prompt and words of each example, by number of the image."""
    found = {}
    for image in read_album(folder, EXAMPLES):
        with safe_open(folder / NAME.format(study=EXAMPLES, image=image), "pt") as file:
            notes = file.metadata()
        found[image] = (notes["prompt"], json.loads(notes["words"]))
    return found

"""Pictures of a few example images, kept on disk as they are made."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from seg4diff.disk import whole_file

NAME = "{study}-{image}.safetensors"
"""File of the pictures that a study made of an image."""


class Album:
    """Keeps what studies show of a few images, in one file for each study and image.

    Args:
        folder: where the files go.
        images: numbers of the images of which pictures are kept.
    """

    def __init__(self, folder: Path, images: Sequence[int]) -> None:
        self._folder, self._images = folder, frozenset(images)
        self._open: dict[tuple[str, int], dict[str, Tensor]] = defaultdict(dict)

    def wants(self, image: int) -> bool:
        """Whether pictures of this image are kept."""
        return image in self._images

    def add(self, study: str, image: int, name: str, picture: Tensor) -> None:
        """Keep a picture until `save`: (H, W, 3) uint8, or maps (C, h, w) float."""
        self._open[study, image][name] = picture.cpu().contiguous()

    def save(self) -> None:
        """Write what was added since the last time."""
        for (study, image), pictures in self._open.items():
            with whole_file(self._folder / NAME.format(study=study, image=image)) as partial:
                save_file(pictures, partial)
        self._open.clear()


def read_album(folder: Path, study: str) -> dict[int, dict[str, Tensor]]:
    """The pictures that a study kept, by number of the image and name."""
    found = {}
    for file in folder.glob(NAME.format(study=study, image="*")):
        if number := re.fullmatch(r"(\d+)\.safetensors", file.name.removeprefix(f"{study}-")):
            found[int(number[1])] = load_file(file)
    return dict(sorted(found.items()))

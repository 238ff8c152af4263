"""Files of a result to download."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from seg4diff.disk import write_json
from seg4diff.results import Segmentation
from seg4diff.segmentation.instances import coco

PARTS = 100_000
"""Connected parts of a picture, at most: in larger pictures, parts of less than this fraction are left out."""


class Files:
    """Writes each file once, in a folder for each result.

    Args:
        folder: where the folders of the results are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def labels(self, found: Segmentation, asked: object) -> Path:
        """The label map that `seg4diff segment` writes; overlay and sheet of maps are beside it.

        Args:
            found: the result.
            asked: what it depends on; its `repr` is the name of the folder.
        """
        folder = self._folder / hashlib.sha256(repr(asked).encode()).hexdigest()[:16]
        labels = folder / "labels" / f"{found.stem}.png"
        if not labels.exists():
            found.save(folder)
        return labels

    def coco(self, found: Segmentation, asked: object, picture: str) -> Path:
        """The connected parts of each word as a file of COCO, with the name of the picture; see `labels` for the arguments."""
        file = self.labels(found, asked).parents[1] / f"{found.stem}.json"
        if not file.exists():
            write_json(file, coco(found.labels, found.names, picture, max(1, found.labels.size // PARTS)))
        return file

    def archive(self, found: Segmentation, asked: object, picture: str) -> Path:
        """A zip file of all of them, and of the maps as numbers; see `coco` for the arguments."""
        folder = self.coco(found, asked, picture).parent
        arrays: dict[str, Any] = {"labels": found.labels} | {f"map_{k}": own.numpy() for k, own in enumerate(found.maps.values())}
        np.savez_compressed(folder / "maps.npz", **arrays)
        (folder / "words.txt").write_text("".join(f"{name}\n" for name in found.names), encoding="utf-8")
        return Path(shutil.make_archive(str(folder), "zip", folder))

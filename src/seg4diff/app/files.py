"""Files of a result to download."""

import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from seg4diff.disk import save_picture, write_json
from seg4diff.results import Segmentation
from seg4diff.segmentation.instances import coco

PARTS = 100_000
"""Connected parts of a picture, at most: in larger pictures, parts of less than this fraction are left out."""


class Files:
    """Writes each file when it is asked for, and once.

    Args:
        folder: it gets a folder for each result, which holds only what these methods return.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def labels(self, found: Segmentation, asked: object) -> Path:
        """The label map that `seg4diff segment` writes.

        Args:
            found: the result.
            asked: what it depends on; its `repr` names the folder.
        """
        file = self._place(asked, f"{found.stem}.png")
        if not file.exists():
            save_picture(found.label_map(), file)
        return file

    def coco(self, found: Segmentation, asked: object, picture: str) -> Path:
        """The connected parts of each word as a file of COCO, with the name of the picture; see `labels` for the arguments."""
        file = self._place(asked, f"{found.stem}.json")
        if not file.exists():
            write_json(file, _parts(found, picture))
        return file

    def archive(self, found: Segmentation, asked: object, picture: str) -> Path:
        """A zip file of what `seg4diff segment` writes, the connected parts, and the maps as numbers; see `coco` for the arguments."""
        file = self._place(asked, f"{found.stem}.zip")
        if file.exists():
            return file
        with TemporaryDirectory(dir=self._folder) as scratch:
            content = Path(scratch) / "content"
            found.save(content)
            write_json(content / f"{found.stem}.json", _parts(found, picture))
            arrays: dict[str, Any] = {"labels": found.labels} | {f"map_{k}": own.numpy() for k, own in enumerate(found.maps.values())}
            np.savez_compressed(content / "maps.npz", **arrays)
            (content / "words.txt").write_text("".join(f"{name}\n" for name in found.names), encoding="utf-8")
            return Path(shutil.move(shutil.make_archive(str(content), "zip", content), file))

    def _place(self, asked: object, name: str) -> Path:
        folder = self._folder / hashlib.sha256(repr(asked).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def _parts(found: Segmentation, picture: str) -> dict[str, Any]:
    return coco(found.labels, found.names, picture, max(1, found.labels.size // PARTS))

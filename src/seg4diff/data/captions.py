"""Captions that come beside a data set: one JSON object of image stem: caption."""

import json
from collections.abc import Sequence
from pathlib import Path

from seg4diff.data.files import first_few, read_text
from seg4diff.errors import MissingFileError, UserError

FORM = "JSON file of image stem: caption"
REMEDY = f"set data.source.captions to a complete {FORM}, or to null"


class Captions:
    """The captions of a data set's images.

    Args:
        path: JSON file {image stem: caption}, or None: no image has one.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path is not None else None

    def problems(self, stems: Sequence[str]) -> list[str]:
        """What is missing, one phrase each."""
        if self._path is None:
            return []
        if not self._path.is_file():
            return [f"captions {self._path} (a {FORM})"]
        gone = self._without(stems, self.read())
        return [f"captions of {len(gone)} of {len(stems)} images in {self._path}, {first_few(gone)}"] if gone else []

    def of(self, stems: Sequence[str]) -> dict[str, str]:
        """Captions of images by stem; empty where there is no file."""
        captions = self.read()
        if self._path is not None and (gone := self._without(stems, captions)):
            raise UserError(f"{self._path} has no caption for {len(gone)} of {len(stems)} images, the first is {gone[0]}: {REMEDY}.")
        return captions

    def read(self) -> dict[str, str]:
        """The content of the file; empty where there is none."""
        if self._path is None:
            return {}
        if not self._path.is_file():
            raise MissingFileError(f"no captions at {self._path}: {REMEDY}.")
        text = read_text(self._path)
        try:
            captions = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self._path} is not JSON ({error}): {REMEDY}.") from error
        if not isinstance(captions, dict) or not all(isinstance(caption, str) for caption in captions.values()):
            raise UserError(f"{self._path} must be one JSON object of image stem: caption, both strings: {REMEDY}.")
        return captions

    @staticmethod
    def _without(stems: Sequence[str], captions: dict[str, str]) -> list[str]:
        return [stem for stem in stems if stem not in captions]

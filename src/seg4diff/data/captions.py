"""Captions of a data set, and the optional JSON file {image stem: caption} that holds them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg4diff.data.files import first_few, parse_json, read_text
from seg4diff.errors import MissingFileError, UserError

FORM = "JSON file of image stem: caption"
REMEDY = f"set `captions` to a complete {FORM}, or leave it out"


def one_caption(value: Any, where: str) -> str | None:
    """The caption that a data set gives for an image: a string, the first one of a list that is not blank, or None where there is none.

    Args:
        value: a string, a list of strings, or None.
        where: what errors call it.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise UserError(f"{where} must be a string or a list of strings, found {str(value)[:80]!r}.")
    caption = next((text for text in texts if text and text.strip()), None)
    if caption is not None and any("\ud800" <= character <= "\udfff" for character in caption):
        raise UserError(f"{where} holds half of a character, {caption[:80]!a}: write it as UTF-8 text.")
    return caption


class Captions:
    """The captions of a data set's images.

    Args:
        path: JSON file {image stem: caption}, or None: no image has one. An image with a list of captions has the first of them.
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
            captions = parse_json(text)
        except ValueError as error:
            raise UserError(f"{self._path} is not JSON ({error}): {REMEDY}.") from error
        if not isinstance(captions, dict) or not all(isinstance(caption, str | list) for caption in captions.values()):
            raise UserError(
                f"{self._path} must be one JSON object of image stem: caption, both strings, or a list of strings for several captions: "
                f"{REMEDY}."
            )
        return {stem: one_caption(caption, f"the caption of {stem} in {self._path}") or "" for stem, caption in captions.items()}

    @staticmethod
    def _without(stems: Sequence[str], captions: dict[str, str]) -> list[str]:
        return [stem for stem in stems if stem not in captions]

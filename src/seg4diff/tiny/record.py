"""Answers about images on disk, a line for each image, so that a stopped measurement goes on and others take over its base model."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seg4diff.disk import read_json, to_json, write_json, write_text
from seg4diff.errors import MissingFileError, UserError
from seg4diff.tiny.answers import Answers
from seg4diff.tiny.drawing import ImageId

ANSWERS, SETTINGS = "answers.jsonl", "answers.json"
"""Files of a folder: the answers, and what they depend on."""
OF_THE_LORA = ("lora", "lora_scale")
"""Settings that the answers about the base model do not depend on."""


class AnswerRecord:
    """The answers of one folder.

    Args:
        folder: the folder.
        settings: everything that its answers depend on, as plain values.

    Raises:
        UserError: the folder holds answers of other settings, or its files are damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = folder / ANSWERS, json.loads(to_json(dict(settings)))
        if (folder / SETTINGS).exists():
            _check_same(folder, self._settings, list(self._settings), "choose another `out`, or the same settings")
        else:
            write_json(folder / SETTINGS, self._settings)
        whole = _whole_lines(self._file)
        if self._file.exists():
            write_text(self._file, whole)  # without a line that was cut off
        self._answers = _parse(self._file, whole)

    def of(self, variant: str) -> dict[ImageId, Answers]:
        """The answers about a variant of the model, "base" or "lora"."""
        return {image: answers for (own, image), answers in self._answers.items() if own == variant}

    def add(self, variant: str, found: Iterable[tuple[ImageId, Answers]]) -> None:
        """Append answers, each as soon as it is there."""
        for image, answers in found:
            row = {"variant": variant, "prompt": image[0], "seed": image[1], "answers": answers}
            with self._file.open("a", encoding="utf-8", newline="") as file:
                file.write(json.dumps(row) + "\n")
            self._answers[variant, image] = answers

    def take_base(self, folder: Path) -> None:
        """Take over what another folder holds about the base model and this one lacks.

        Raises:
            UserError: it holds no answers, or those of other settings.
        """
        if not (folder / SETTINGS).is_file():
            raise MissingFileError(f"there are no answers in {folder}: `base_from` must be the folder of another measurement.")
        kept = [name for name in self._settings if name not in OF_THE_LORA]
        _check_same(folder, self._settings, kept, "`base_from` must be a measurement with the same settings")
        theirs = _parse(folder / ANSWERS, _whole_lines(folder / ANSWERS))
        own = [key for key in theirs if key[0] == "base" and key not in self._answers]
        self.add("base", ((key[1], theirs[key]) for key in own))


def _check_same(folder: Path, ours: Mapping[str, Any], names: Iterable[str], remedy: str) -> None:
    theirs = read_json(folder / SETTINGS, f"delete the folder {folder}")
    for name in names:
        if theirs.get(name) != ours[name]:
            found, here = (json.dumps(value) for value in (theirs.get(name), ours[name]))
            raise UserError(f"{folder} holds answers with {name} {found}, and here it is {here}: {remedy}.")


def _whole_lines(file: Path) -> str:
    """The lines of a file, without a last one that a killed process did not finish; empty where there is no file."""
    content = file.read_bytes() if file.exists() else b""
    return content[: content.rfind(b"\n") + 1].decode(errors="replace")


def _parse(file: Path, lines: str) -> dict[tuple[str, ImageId], Answers]:
    """Answers by variant and image."""
    try:
        rows = [json.loads(line) for line in lines.splitlines()]
        return {(row["variant"], (row["prompt"], row["seed"])): row["answers"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: delete it, and its images are drawn again.") from error

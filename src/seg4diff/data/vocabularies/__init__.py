"""The vocabularies of this folder, kept as text files: a comment that names the source, then one `id name` line per id.

Several ids may share a name: they are one class. Classes are numbered as their names first appear.
"""

import re
from importlib.resources import files
from pathlib import Path

from seg4diff.data.files import lines_of
from seg4diff.errors import MissingFileError, UserError

NUMBERED = re.compile(r"(\d{1,9})[\s.,:;|)\]=]+\S")
"""A line that begins with a number and goes on with something else."""


def read_vocabulary(name: str) -> dict[int, str]:
    """Original id -> class name of the vocabulary file `name` ("coco_stuff", ...), in the order of the file."""
    file = files(__package__) / f"{name}.txt"
    if not file.is_file():
        known = sorted(path.name.removesuffix(".txt") for path in files(__package__).iterdir() if path.name.endswith(".txt"))
        raise UserError(f"no vocabulary '{name}': set data.source.vocabulary to one of {', '.join(known)}.")
    lines = file.read_text(encoding="utf-8").split("\n")
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {int(key): value for key, value in pairs}


def vocabulary_words(*names: str) -> list[str]:
    """Every word of the class names of these vocabularies, each once, in the order of the files."""
    words = (word for name in names for value in read_vocabulary(name).values() for word in value.split())
    return list(dict.fromkeys(words))


def read_classes(file: Path, key: str) -> list[str]:
    """Your own class names: one per line, line k (from 0) names mask value k.

    Args:
        file: a text file.
        key: the configuration key that led here, for errors.

    Raises:
        UserError: lines that are no names: empty ones, comments, and numbers before the names, which would become part of them.
    """
    if not file.is_file():
        raise MissingFileError(
            f"no list of classes at {file}: write one class name per line, in the order of the mask values, and set {key}."
        )
    names = [" ".join(line.split()) for line in lines_of(file)]
    if not all(names):
        raise UserError(f"line {names.index('') + 1} of {file} is empty: line k (from 0) names mask value k, so no line may be left out.")
    if comment := next((name for name in names if name.startswith("#")), None):
        raise UserError(
            f"line {names.index(comment) + 1} of {file} is a comment, '{comment[:40]}', and line k (from 0) names mask value k: remove it."
        )
    if _are_numbered(names):
        raise UserError(
            f"{file} has a number before each name, as in '{names[-1][:40]}', and whole lines are the names: write the names alone, line k "
            "(from 0) for mask value k."
        )
    return names


def _are_numbered(names: list[str]) -> bool:
    """Whether each line begins with a number, or all but a heading with 0, 1, 2, ... or 1, 2, 3, ..."""
    numbers = [int(match[1]) if (match := NUMBERED.match(name)) else None for name in names]
    counted = numbers[1:] in (list(range(len(names) - 1)), list(range(1, len(names))))
    return None not in numbers or (counted and len(names) > 2)

"""The vocabularies of this folder, kept as text files: a comment that names the source, then one `id name` line per id.

Several ids may share a name: they are one class. Classes are numbered as their names first appear.
"""

from importlib.resources import files
from pathlib import Path

from seg4diff.data.files import read_text
from seg4diff.errors import MissingFileError, UserError


def read_vocabulary(name: str) -> dict[int, str]:
    """Original id -> class name of the vocabulary file `name` ("coco_stuff", ...), in the order of the file."""
    file = files(__package__) / f"{name}.txt"
    if not file.is_file():
        known = sorted(path.name.removesuffix(".txt") for path in files(__package__).iterdir() if path.name.endswith(".txt"))
        raise UserError(f"no vocabulary '{name}': set data.source.vocabulary to one of {', '.join(known)}.")
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {int(key): value for key, value in pairs}


def vocabulary_words(*names: str) -> list[str]:
    """Every word of the class names of these vocabularies, each once, in the order of the files."""
    words = (word for name in names for value in read_vocabulary(name).values() for word in value.split())
    return list(dict.fromkeys(words))


def read_classes(file: Path, key: str) -> list[str]:
    """People's own class names: one per line, line k (from 0) names mask value k; errors name the configuration `key` that led here."""
    if not file.is_file():
        raise MissingFileError(
            f"no list of classes at {file}: write one class name per line, in the order of the mask values, and set {key}."
        )
    names = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if not all(names):
        raise UserError(f"line {names.index('') + 1} of {file} is empty: line k (from 0) names mask value k, so no line may be left out.")
    return names

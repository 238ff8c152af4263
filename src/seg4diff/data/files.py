"""Images and what belongs to them, found by listing folders: nothing is opened, so 100,000 files take a second."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg4diff.errors import MissingFileError, UserError

LISTED = 5
"""Number of missing files that an error names."""


def read_text(file: Path) -> str:
    """The text of a file that a person wrote."""
    try:
        return file.read_text(encoding="utf-8-sig")  # with or without the mark that some editors put first
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}): save it as UTF-8.") from error


def lines_of(file: Path) -> list[str]:
    """The lines of a file that a person wrote, blank ones at its end left out.

    Only the end of a line ends it. `str.splitlines` also splits at form feeds and U+2028: one line would become two, and all after it
    would be counted one too high.
    """
    return read_text(file).rstrip().split("\n")


def parse_json(text: str | bytes) -> Any:
    """The content of JSON; ValueError for what is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def first_few(names: Sequence[str]) -> str:
    """The first names of a long list, for a sentence."""
    return f"{', '.join(names[:LISTED])}{' ...' if len(names) > LISTED else ''}"


def missing_files(files: Iterable[Path]) -> list[Path]:
    """Those of `files` that do not exist; every folder is listed once."""
    listed: dict[Path, set[str]] = {}

    def exists(file: Path) -> bool:
        if file.parent not in listed:
            try:
                listed[file.parent] = {entry.name for entry in os.scandir(file.parent)}
            except (OSError, ValueError):  # no folder, or a name that no folder can have
                listed[file.parent] = set()
        return file.name in listed[file.parent]

    return [file for file in files if not exists(file)]


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below and including `root` with the names of its files: linked folders once, hidden ones never."""
    whole = Path(root).resolve()
    seen = {whole}

    def visible(target: Path) -> bool:
        return target.is_relative_to(whole) and not any(part.startswith(".") for part in target.relative_to(whole).parts)

    for folder, below, names in os.walk(root, followlinks=True):
        yield folder, names
        paths, below[:] = sorted(Path(folder, name) for name in below if name[0] != "."), []
        for path in paths:
            target = path.resolve()
            if target not in seen and not (path.is_symlink() and visible(target)):  # else it is visited where it lies
                below.append(path.name)
                seen.add(target)


@dataclass(frozen=True)
class Folder:
    """The files of one kind. A file is known by its path below the folder without the suffix: "0001", "aachen/aachen_000000".

    Attributes:
        paths: where they are; a file that is in several of these folders is taken from the first.
        suffix: how their names end.
        archive: where people get them.
        prefix: how their names begin.
    """

    paths: tuple[Path, ...]
    suffix: str
    archive: str
    prefix: str = ""

    def keys(self) -> set[str]:
        """The files that exist, subfolders included."""
        found: set[str] = set()
        for path in self.paths:
            for folder, names in walk(path):
                below = "" if folder == str(path) else f"{Path(folder).relative_to(path).as_posix()}/"
                ours = (name for name in names if name.endswith(self.suffix) and name.startswith(self.prefix) and name[0] != ".")
                found.update(below + name.removesuffix(self.suffix) for name in ours)
        return found

    def file(self, key: str) -> Path:
        """The path of a file; it need not exist."""
        candidates = [path / (key + self.suffix) for path in self.paths]
        return next((file for file in candidates[:-1] if file.exists()), candidates[-1])


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their masks.

    Attributes:
        images: the images.
        masks: one mask for every image, known by the same name.
        listed: text file with one name per line of those that make up the split; None = all images.
        list_archive: where people get that file.
    """

    images: Folder
    masks: Folder
    listed: Path | None = None
    list_archive: str = ""

    def keys(self) -> list[str]:
        """The names of the images, sorted or in the order of the list."""
        keys = sorted(self.images.keys()) if self.listed is None else self._read_list(self.listed)
        if not keys and self.listed is not None:
            raise UserError(f"the list {self.listed} (from {self.list_archive}) is empty: write one image per line.")
        if not keys:
            raise MissingFileError(
                f"{self.images.paths[0]} holds no {self.images.suffix}: it should hold the images of {self.images.archive}."
            )
        return keys

    def problems(self) -> list[str]:
        """What is missing, one phrase each: whole folders, or else the images and masks without a partner."""
        whole = [f"{kind} {path} (from {folder.archive})" for kind, folder in self._kinds() for path in folder.paths if not path.is_dir()]
        if self.listed is not None and not self.listed.is_file():
            whole.append(f"list {self.listed} (from {self.list_archive})")
        return whole or self._unpaired()

    def _unpaired(self) -> list[str]:
        found = {kind: folder.keys() for kind, folder in self._kinds()}
        wanted = sorted(found["images"] | found["masks"]) if self.listed is None else self._read_list(self.listed)
        if not wanted and self.listed is not None:
            return [f"images in the list {self.listed} (from {self.list_archive}), which is empty"]
        if not wanted:
            return [f"images *{self.images.suffix} in {self.images.paths[0]} (from {self.images.archive})"]
        phrases = []
        for kind, folder in self._kinds():
            gone = [str(folder.file(key)) for key in wanted if key not in found[kind]]
            if gone:
                phrases.append(f"{len(gone)} of {len(wanted)} {kind}, {first_few(gone)} (from {folder.archive})")
        return phrases

    def _kinds(self) -> tuple[tuple[str, Folder], ...]:
        return ("images", self.images), ("masks", self.masks)

    def _read_list(self, listed: Path) -> list[str]:
        if not listed.is_file():
            raise MissingFileError(f"no list of images at {listed}: it comes from {self.list_archive}.")
        return [line.strip() for line in lines_of(listed) if line.strip()]

"""Your own data: a folder of images, masks and captions.

root/classes.txt                  one class name per line; line k (from 0) names mask value k
root/<split>/metadata.jsonl       one row per image: {"file_name": ..., "mask_file_name": ..., "caption": ...}
root/<split>/...                  the files the rows name; masks are one-channel PNGs of class ids, 255 = ignore
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from seg4diff.data.captions import one_caption
from seg4diff.data.files import first_few, lines_of, missing_files, parse_json
from seg4diff.data.reading import read_image, read_labels
from seg4diff.data.sample import Vocabulary
from seg4diff.data.source import SPLITS, DataSource, Row, Rows
from seg4diff.data.vocabularies import read_classes
from seg4diff.errors import MissingFileError, UserError

log = logging.getLogger(__name__)
KEYS = ("file_name", "mask_file_name")
ROWS = "one JSON row per image with file_name, mask_file_name and caption"


class FolderData(DataSource):
    """An image folder in the convention of Hugging Face's imagefolder, with masks.

    Args:
        root: the folder.
        splits: folder of each split: {"train": "train", "validation": "val", "test": None}. None: the folder that is called like the
            split, and where there is none, that of the split "validation".
    """

    def __init__(self, *, root: str, splits: dict[str, str | None]) -> None:
        self._root, self._splits = Path(root), dict(splits)

    @cached_property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]  # read when it is first asked for, and never set
        return Vocabulary(tuple(read_classes(self._root / "classes.txt", "data.source.root")))

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        self._check_root()
        folders = dict.fromkeys(self._folder(split) for split in splits if split in self._splits)
        if "test" in splits and self._splits.get("test", "") is None:
            log.info("the test split is the folder %s", self._root / self._folder("test"))
        missing = [problem for folder in folders for problem in self._problems(folder)]
        if missing:
            raise MissingFileError(
                f"{self._root} is incomplete, missing: {'; '.join(missing)}. Restore the files or remove their rows; data.source.root is "
                "the folder, data.source.splits names those of the splits in it."
            )
        _ = self.vocabulary

    def rows(self, split: str) -> "FolderRows":
        """The rows of a split's metadata.jsonl."""
        if split not in self._splits:
            raise UserError(f"data.source.splits names no folder for the split '{split}', only for {list(self._splits)}: add one.")
        return FolderRows(self._root / self._folder(split), self._rows(self._folder(split)))

    def _folder(self, split: str) -> str:
        """The name of the folder of a split."""
        if (named := self._splits[split]) is not None:
            return named
        return split if (self._root / split).is_dir() else self._splits.get("validation") or split

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise MissingFileError(f"no data folder at {self._root.resolve()}: set data.source.root=<folder with classes.txt and splits>.")

    def _problems(self, folder: str) -> list[str]:
        """What is missing of a split, one phrase each."""
        file = self._root / folder / "metadata.jsonl"
        if not file.is_file():
            return [f"{file} ({ROWS})"]
        files = [self._root / folder / row[key] for row in self._rows(folder) for key in KEYS]
        gone = [str(path) for path in missing_files(files)]
        return [f"{len(gone)} of {len(files)} files of {file}, {first_few(gone)}"] if gone else []

    def _rows(self, folder: str) -> list[dict]:
        self._check_root()
        file = self._root / folder / "metadata.jsonl"
        if not file.is_file():
            raise MissingFileError(f"no {file}: write {ROWS}, or name another folder in data.source.splits.")
        rows = []
        for number, line in enumerate(lines_of(file), start=1):
            if line.strip():
                rows.append(_parse(line, file, number))
        if not rows:
            raise UserError(f"{file} has no rows: write {ROWS}.")
        return rows


def _parse(line: str, file: Path, number: int) -> dict:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"line {number} of {file} is not JSON ({error}): write one JSON object per line.") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in KEYS):
        raise UserError(f"line {number} of {file} must be an object with the strings {' and '.join(KEYS)}, found {line.strip()[:80]}.")
    return row | {"caption": one_caption(row.get("caption"), f"the caption in line {number} of {file}") or ""}


class FolderRows(Rows):
    """The rows of one split of `FolderData`."""

    def __init__(self, folder: Path, rows: list[dict]) -> None:
        self._folder, self._rows = folder, rows

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return str(self._folder / self._rows[index]["file_name"])

    def __getitem__(self, index: int) -> Row:
        row = self._rows[index]
        path, mask_path = (self._folder / row[key] for key in KEYS)
        remedy = f"replace it, or remove its row from {self._folder / 'metadata.jsonl'}"
        image, mask = read_image(path, str(path), remedy), read_labels(mask_path, str(mask_path), remedy)
        return Row(image=image, mask=mask, caption=row["caption"], name=str(path), mask_name=str(mask_path))

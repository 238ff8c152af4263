"""A Hugging Face table with images, masks and captions: one Parquet file, a folder of them, or a data set of the Hub."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from seg4diff.data.captions import one_caption
from seg4diff.data.files import walk
from seg4diff.data.reading import UnreadableError, read_image, read_labels, reading
from seg4diff.data.sample import Vocabulary
from seg4diff.data.source import SPLITS, DataSource, Row, Rows
from seg4diff.data.vocabularies import read_classes
from seg4diff.errors import MissingFileError, UserError

log = logging.getLogger(__name__)


class TableData(DataSource):
    """Images, masks and captions from a table.

    Args:
        path: a .parquet file, a folder of them, or the name of a data set of the Hub.
        splits: split of the table for each split: {"train": "train[:90%]", "validation": "train[90%:]", "test": None}. None: the split of
            the table that is called like it, and where there is none, that of "validation".
        columns: columns of the "image", the "mask" (class ids, 255 = ignore) and the "caption"; where that is None or blank, the caption
            is the list of class names in the image, and of a list of captions it is the first.
        classes: text file with one class name per line, line k (from 0) names mask value k; None = the names of the table's column of
            lists of a ClassLabel.
    """

    def __init__(self, *, path: str, splits: dict[str, str | None], columns: dict[str, str | None], classes: str | None) -> None:
        self._path, self._splits, self._columns, self._classes = path, dict(splits), dict(columns), classes

    @cached_property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]  # read when it is first asked for, and never set
        if self._classes is not None:
            return Vocabulary(tuple(read_classes(Path(self._classes), "data.source.classes")))
        features = self._table(next(iter(self._splits))).features
        named = {column: names for column, feature in features.items() if (names := _class_names(feature))}
        lists = {tuple(names) for names in named.values()}
        if len(lists) == 1 and all(isinstance(features[column], datasets.ClassLabel) for column in named):
            raise UserError(
                f"the column '{next(iter(named))}' of {self._path} names one class for a whole image, and the masks need a name for each "
                "of their values: write these into a text file, one per line in the order of the values, and set data.source.classes to it."
            )
        if len(lists) != 1:
            raise UserError(
                f"{self._path} has {len(lists)} columns with class names (ClassLabel), and the masks need one: write the names into a text "
                "file, one per line in the order of the mask values, and set data.source.classes to it."
            )
        return Vocabulary(lists.pop())

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        for split in splits:
            self.rows(split)
        if "test" in splits and self._splits["test"] is None:
            log.info("the test split is '%s' of %s", self._split("test"), self._path)
        _ = self.vocabulary

    def rows(self, split: str) -> "TableRows":
        """The rows of a split, decoded when they are read."""
        if split not in self._splits:
            raise UserError(f"data.source.splits says nothing about the split '{split}', only about {list(self._splits)}: add it.")
        table, wanted = self._table(split), {name: column for name, column in self._columns.items() if column is not None}
        if not {"image", "mask"} <= set(wanted) or not set(wanted.values()) <= set(table.column_names):
            raise UserError(
                f"data.source.columns is {self._columns}, but {self._path} has the columns {table.column_names}: "
                "name one for the image and one for the mask."
            )
        table = table.select_columns(list(wanted.values())).rename_columns({column: name for name, column in wanted.items()})
        first = next(other for other in self._splits if self._split(other) == self._split(split))  # the same rows have the same names
        return TableRows(table, [f"{first}-{k:06d}" for k in range(len(table))])

    def _split(self, split: str) -> str:
        """The split of the table, in the notation of `datasets`."""
        if (named := self._splits[split]) is not None:
            return named
        return split if split in self._load(None) else self._splits.get("validation") or split

    def _table(self, split: str) -> datasets.Dataset:
        return self._load(self._split(split))

    def _load(self, split: str | None) -> datasets.Dataset | datasets.DatasetDict:
        """A split of the table; None = all of them by name."""
        try:
            if self._cache is None:
                return datasets.load_dataset(self._path, split=split)
            kind = {"path": "parquet", "data_files": self._path} if Path(self._path).is_file() else {"path": self._path}
            return datasets.load_dataset(**kind, split=split, cache_dir=self._cache)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error.__cause__ or error).split())  # what `datasets` says itself is only that there was an error
            of_split = f"the split '{split}' of " if split else ""
            raise MissingFileError(
                f"{of_split}{self._path} cannot be read ({reason}): set data.source.path to a .parquet file, a folder of them, or a data "
                "set of the Hub, and data.source.splits to splits that it has."
            ) from error

    @cached_property
    def _cache(self) -> str | None:
        """Where `datasets` keeps its copy of local files. It knows them by path and time alone, so another state has another folder."""
        root = Path(self._path)
        if not root.exists():
            return None
        files = [root] if root.is_file() else [Path(folder, name) for folder, names in walk(root) for name in sorted(names)]
        states = [(str(file), own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_ino) for file in files for own in [file.stat()]]
        return str(Path(datasets.config.HF_DATASETS_CACHE, "seg4diff", hashlib.sha256(repr(states).encode()).hexdigest()[:16]))


def _class_names(feature: object) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _class_names(feature.feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


class TableRows(Rows):
    """The rows of a table with the columns image, mask (pictures of any kind) and, where it has captions, caption.

    Args:
        table: the table.
        names: what to call each row.

    Raises:
        UserError: a column holds no pictures.
    """

    def __init__(self, table: datasets.Dataset, names: Sequence[str]) -> None:
        self._names, self._table = names, table
        for column in ("image", "mask"):
            try:  # `datasets` turns pictures by EXIF that it cannot always read, and forgets how masks are stored
                self._table = self._table.cast_column(column, datasets.Image(decode=False))
            except (TypeError, ValueError, pyarrow.ArrowException) as error:
                raise UserError(
                    f"the {column} column of the table must hold pictures, found {table.features[column]}: set data.source.columns."
                ) from error

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> Row:
        name = self.name(index)
        where, remedy = f"of row {index} ({name}) of the table", "replace it or remove the row"
        with reading(f"the image or mask {where}", remedy):
            row = self._table[index]
        image_file, mask_file = (_file(row, column, where) for column in ("image", "mask"))
        image, mask = read_image(image_file, where, remedy), read_labels(mask_file, where, remedy)
        caption = one_caption(row.get("caption"), f"the caption {where}")
        return Row(image=image, mask=mask, caption=caption, name=name, mask_name=f"of {name}")


def _file(row: dict[str, Any], column: str, where: str) -> Path | bytes:
    """The bytes of a picture of a table, or where it lies; raises UnreadableError for a row without one."""
    stored = row[column] or {"bytes": None, "path": None}
    if stored["bytes"] is not None:
        return stored["bytes"]
    if stored["path"]:
        return Path(stored["path"])
    raise UnreadableError(f"{where.removeprefix('of ')} has no {column}: remove or fill it.")

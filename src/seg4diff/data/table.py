"""A Hugging Face table with images, masks and captions: one Parquet file, a folder of them, or a data set of the Hub."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import datasets

from seg4diff.data.reading import UnreadableError, reading
from seg4diff.data.sample import Vocabulary
from seg4diff.data.source import SPLITS, DataSource, Row, Rows
from seg4diff.data.vocabularies import read_classes
from seg4diff.errors import MissingFileError, UserError

PICTURE = datasets.Image(mode=None)
"""Decoded as it is: converting a mask would turn palette indices into colours."""


class TableData(DataSource):
    """Images, masks and captions from a table.

    Args:
        path: a .parquet file, a folder of them, or the name of a data set of the Hub.
        splits: split of the table for each split: {"train": "train[:90%]", "validation": "train[90%:]", "test": "train[90%:]"}.
        columns: columns of the "image", the "mask" (class ids, 255 = ignore) and the "caption"; where that is None or empty, the caption
            is the list of class names in the image.
        classes: text file with one class name per line, line k (from 0) names mask value k; None = the names of the table's ClassLabel.
    """

    def __init__(self, *, path: str, splits: dict[str, str], columns: dict[str, str | None], classes: str | None) -> None:
        self._path, self._splits, self._columns, self._classes = path, dict(splits), dict(columns), classes

    @cached_property
    def vocabulary(self) -> Vocabulary:
        if self._classes is not None:
            return Vocabulary(tuple(read_classes(Path(self._classes), "data.source.classes")))
        lists = {tuple(names) for names in map(_class_names, self._table(next(iter(self._splits))).features.values()) if names}
        if len(lists) != 1:
            raise UserError(
                f"{self._path} has {len(lists)} columns with class names (ClassLabel), and the masks need one: write the names into a text "
                "file, one per line in the order of the mask values, and set data.source.classes to it."
            )
        return Vocabulary(lists.pop())

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        for split in splits:
            self.rows(split)
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
        table = table.cast_column("image", PICTURE).cast_column("mask", PICTURE)
        return TableRows(table, [f"{split}-{k:06d}" for k in range(len(table))])

    def _table(self, split: str) -> datasets.Dataset:
        try:
            if Path(self._path).is_file():
                return datasets.load_dataset("parquet", data_files=self._path, split=self._splits[split])
            return datasets.load_dataset(self._path, split=self._splits[split])
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error.__cause__ or error).split())  # what `datasets` says itself is only that there was an error
            raise MissingFileError(
                f"the split '{self._splits[split]}' of {self._path} cannot be read ({reason}): set data.source.path "
                "to a .parquet file, a folder of them, or a data set of the Hub, and data.source.splits to splits that it has."
            ) from error


def _class_names(feature: object) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _class_names(feature.feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


class TableRows(Rows):
    """The rows of a table with the columns image, mask (both `datasets.Image`) and, where it has captions, caption.

    Args:
        table: the table.
        names: what to call each row.
    """

    def __init__(self, table: datasets.Dataset, names: Sequence[str]) -> None:
        self._table, self._names = table, names

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> Row:
        name = self.name(index)
        with reading(f"the image or mask of row {index} ({name}) of the table", "replace it or remove the row"):
            row = self._table[index]
        if row["image"] is None or row["mask"] is None:
            raise UnreadableError(
                f"row {index} ({name}) of the table has no {'image' if row['image'] is None else 'mask'}: remove or fill it."
            )
        return Row(image=row["image"], mask=row["mask"], caption=row.get("caption"), name=name, mask_name=f"of {name}")

"""What a data set is to this project: a vocabulary and splits of samples."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from seg4diff.data.geometry import GEOMETRIES, Geometry, Size, Window
from seg4diff.data.reading import UnreadableError, check_skipped
from seg4diff.data.sample import IGNORE, Resample, Sample, Vocabulary, image_to_tensor, label_map, present_classes, resize_labels
from seg4diff.errors import MissingFileError, UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One image as it is on disk, and what belongs to it.

    Attributes:
        image: the picture, 8-bit RGB and upright.
        mask: (H, W) values of its label map, of the same size; None = no pixel has a label.
        caption: its caption; None = the names of the classes in it.
        name: identifies the image in messages and file names.
        mask_name: what to call the mask in messages.
        regions: (H, W) bool masks without names; None = the data set has none.
    """

    image: Image.Image
    mask: np.ndarray | None
    caption: str | None
    name: str
    mask_name: str
    regions: Iterable[np.ndarray] | None = None


class Rows(ABC):
    """The rows of one split, in a fixed order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Row:
        """Row number `index`, decoded; raises UnreadableError where a file of it is missing or broken."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call row number `index` in a message."""


class DataSource(ABC):
    """A data set in its original layout. Constructing one reads nothing from disk."""

    vocabulary: Vocabulary

    @abstractmethod
    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        """Check that the files of these splits are there, or make them; called once, by one process.

        Raises UserError for what is missing.
        """

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """The rows of "train", "validation" or "test"."""

    def split(
        self,
        split: str,
        image_size: Sequence[int] | None,
        resize_mask: bool,
        geometry: Geometry = "stretch",
        skip_unreadable: int = 0,
        resample: Resample = "bicubic",
    ) -> "SampleDataset":
        """Return a map-style data set of `Sample`.

        Args:
            split: "train", "validation" or "test".
            image_size: (height, width) of the canvas that images are brought to, None = as they are.
            resize_mask: bring the masks onto the canvas too (training); otherwise they keep their own size (evaluation).
            geometry: how an image of another shape meets the canvas.
            skip_unreadable: see `SampleDataset`.
            resample: how an image is resized, see `seg4diff.data.sample.RESAMPLES`.
        """
        return SampleDataset(self.rows(split), self.vocabulary, image_size, resize_mask, geometry, skip_unreadable, resample)


class TrainAndEvaluate(DataSource):
    """Trains on one data set and evaluates on another, whose vocabulary it has.

    Args:
        train: source of the training samples: without class names, or with those of `evaluation`.
        evaluation: source of the validation and test samples.
    """

    def __init__(self, *, train: DataSource, evaluation: DataSource) -> None:
        self._train, self._evaluation = train, evaluation

    @property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]  # read when it is first asked for, and never set
        return self._evaluation.vocabulary

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        errors = []
        for key, source in (("train", self._train), ("evaluation", self._evaluation)):
            try:
                source.prepare([split for split in splits if self._source(split) is source])
            except MissingFileError as error:
                errors.append(f"{error} (Here data.source is data.source.{key}: data.source.{key}.root, and so on.)")
        if errors:
            raise MissingFileError("\n".join(errors))
        names = self._train.vocabulary.names
        if names and names != self.vocabulary.names:
            raise UserError(
                f"the training data has {len(names)} class names that are not those of the evaluation data, so its masks mean something "
                "else: set data.source.train to a data set without names or with the same ones."
            )

    def rows(self, split: str) -> Rows:
        return self._source(split).rows(split)

    def _source(self, split: str) -> DataSource:
        return self._train if split == "train" else self._evaluation


class SampleDataset(Dataset):
    """A map-style data set of `Sample`.

    Args:
        rows: where the samples come from.
        vocabulary: the classes that mask values index.
        image_size: (height, width) of the canvas that images are brought to, None = as they are.
        resize_mask: bring masks onto the canvas too.
        geometry: how an image of another shape meets the canvas.
        skip_unreadable: an image that cannot be read is replaced by the next one that can, and named in `Sample.unreadable`, as long as
            no more than this many stand in a row; 0 = none is: the first one raises.
        resample: how an image is resized, see `seg4diff.data.sample.RESAMPLES`.
    """

    def __init__(
        self,
        rows: Rows,
        vocabulary: Vocabulary,
        image_size: Sequence[int] | None,
        resize_mask: bool,
        geometry: Geometry,
        skip_unreadable: int = 0,
        resample: Resample = "bicubic",
    ) -> None:
        self._rows, self._vocabulary, self._resize_mask = rows, vocabulary, resize_mask
        self._size = (image_size[0], image_size[1]) if image_size else None
        self._place = GEOMETRIES[geometry]
        self._skip_unreadable, self._resample = skip_unreadable, resample

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._rows.name(index)

    def __getitem__(self, index: int) -> Sample:
        unreadable: dict[str, str] = {}
        for step in range(len(self)):
            position = (index + step) % len(self)
            try:
                return replace(self._sample(position), unreadable=unreadable)
            except UnreadableError as error:
                unreadable[self.name(position)] = str(error)
                check_skipped(unreadable, self._skip_unreadable)
        raise UnreadableError(f"none of the {len(self)} images can be read. {next(iter(unreadable.values()))}")

    def read(self, index: int) -> tuple[Row, Tensor]:
        """Row number `index` and its label map (H, W), `IGNORE` where it has none; raises UserError for what is wrong with them."""
        row = self._rows[index]
        size = (row.image.height, row.image.width)
        if row.mask is None:
            return row, torch.full(size, IGNORE)
        if row.mask.shape != size:
            raise UserError(
                f"the mask of {row.name} is {row.mask.shape[1]} x {row.mask.shape[0]} pixels, its image {size[1]} x {size[0]}: an image "
                f"and its mask ({row.mask_name}) must have one size, both turned upright as their EXIF orientation says."
            )
        return row, label_map(row.mask, len(self._vocabulary), row.mask_name)

    def _sample(self, index: int) -> Sample:
        row, labels = self.read(index)
        size = (row.image.height, row.image.width)
        canvas = self._size or size
        shown, window = self._place(size, canvas)
        picture = row.image if shown.size == size else row.image.crop(shown.corners)
        mask = shown.cut(labels)
        return Sample(
            image=window.paste(image_to_tensor(picture, window.size, self._resample), canvas, 0.0),
            mask=self._placed(mask, window, canvas, IGNORE),
            caption=self._class_names(mask) if row.caption is None else row.caption,
            name=row.name,
            index=index,
            window=window,
            regions=None if row.regions is None else self._regions(row.regions, shown, window, canvas),
        )

    def _placed(self, mask: Tensor, window: Window, canvas: Size, value: int) -> Tensor:
        """A mask of the shown part of an image, on the canvas in training."""
        if not self._resize_mask:
            return mask
        return window.paste(resize_labels(mask, window.size), canvas, value)

    def _regions(self, masks: Iterable[np.ndarray], shown: Window, window: Window, canvas: Size) -> Tensor:
        """(M, H', W') bool, without the regions that have no pixel there."""
        regions = (self._placed(shown.cut(torch.from_numpy(region)), window, canvas, False) for region in masks)
        seen = [region for region in regions if region.any()]
        return torch.stack(seen) if seen else torch.zeros(0, *(canvas if self._resize_mask else shown.size), dtype=torch.bool)

    def _class_names(self, mask: Tensor) -> str:
        return " ".join(self._vocabulary.names[k] for k in self._vocabulary.without_background(present_classes(mask)))

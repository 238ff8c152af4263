"""What a data set is to this project: a vocabulary and splits of samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from seg4diff.data.sample import Sample, Vocabulary, image_to_tensor, label_map
from seg4diff.errors import UserError

SPLITS = ("train", "validation", "test")


class DataSource(ABC):
    """A data set in its original layout. Constructing one reads nothing from disk."""

    vocabulary: Vocabulary

    @abstractmethod
    def prepare(self) -> None:
        """Check that the files are there, or make them; called once, by one process. Raises UserError for what is missing."""

    @abstractmethod
    def split(self, split: str, image_size: tuple[int, int] | None, resize_mask: bool) -> Dataset:
        """Return a map-style data set of `Sample`.

        Args:
            split: "train", "validation" or "test".
            image_size: (height, width) of the images, None = as they are.
            resize_mask: bring the masks to the size of the images too (training); otherwise they keep their own (evaluation).
        """


def resize_labels(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour resize of a (H, W) int64 label map to (height, width)."""
    return torch.nn.functional.interpolate(mask[None, None].float(), size=tuple(size), mode="nearest-exact")[0, 0].long()


@dataclass(frozen=True)
class Row:
    """Where the picture, the label map and the caption of one sample come from; pictures may still be undecoded."""

    image: Image.Image
    mask: Image.Image
    caption: str
    name: str
    mask_name: str


class SampleDataset(Dataset, ABC):
    """A map-style data set of `Sample`; a subclass says where row k comes from.

    Args:
        vocabulary: the classes that mask values index.
        image_size: (height, width) of the images, None = as they are.
        resize_mask: bring masks to the size of the images too.
    """

    def __init__(self, vocabulary: Vocabulary, image_size: Sequence[int] | None, resize_mask: bool) -> None:
        self._vocabulary, self._size, self._resize_mask = vocabulary, image_size, resize_mask

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, index: int) -> Row:
        """Row number `index`; may raise OSError or SyntaxError (Pillow's) for a picture that cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call row number `index` in a message."""

    def __getitem__(self, index: int) -> Sample:
        try:
            row = self.row(index)
            row.image.load()
            row.mask.load()
        except (OSError, SyntaxError) as error:
            raise UserError(f"the image or mask of {self.name(index)} cannot be decoded ({error}): replace or remove it.") from error
        if row.image.size != row.mask.size:
            raise UserError(
                f"the mask of {row.name} is {row.mask.width} x {row.mask.height} pixels, its image {row.image.width} x {row.image.height}: "
                "an image and its mask must have one size."
            )
        image = image_to_tensor(row.image, self._size)
        mask = label_map(row.mask, len(self._vocabulary), row.mask_name)
        if self._resize_mask and mask.shape != image.shape[1:]:
            mask = resize_labels(mask, image.shape[1:])
        return Sample(image=image, mask=mask, caption=row.caption, name=row.name, index=index)


class TableDataset(SampleDataset):
    """Samples from a Hugging Face table with the columns image, mask (both `datasets.Image`), caption and name."""

    def __init__(self, table: datasets.Dataset, vocabulary: Vocabulary, image_size: Sequence[int] | None, resize_mask: bool) -> None:
        super().__init__(vocabulary, image_size, resize_mask)
        self._table, self._names = table.select_columns(["image", "mask", "caption", "name"]), table["name"]

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._names[index]

    def row(self, index: int) -> Row:
        return Row(**self._table[index], mask_name=f"of {self.name(index)}")

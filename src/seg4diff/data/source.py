"""What a data set is to this project: a vocabulary and splits of samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seg4diff.data.sample import Sample, Vocabulary, image_to_tensor, label_map
from seg4diff.errors import UserError


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


class TableDataset(Dataset):
    """Samples from a table with the columns image, mask, caption and name.

    Args:
        table: a Hugging Face data set; image and mask are `datasets.Image` columns.
        vocabulary: the classes that mask values index.
        image_size: (height, width) of the images, None = as they are.
        resize_mask: bring masks to the size of the images too.
    """

    def __init__(self, table: datasets.Dataset, vocabulary: Vocabulary, image_size: Sequence[int] | None, resize_mask: bool) -> None:
        self.table, self._vocabulary, self._size, self._resize_mask = table, vocabulary, image_size, resize_mask

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        row = self.read(index)
        if row["image"].size != row["mask"].size:
            raise UserError(
                f"mask of {row['name']} is {row['mask'].size[0]} x {row['mask'].size[1]} pixels, its image {row['image'].size[0]} x "
                f"{row['image'].size[1]}: an image and its mask must have one size."
            )
        image = image_to_tensor(row["image"], self._size)
        mask = label_map(row["mask"], len(self._vocabulary), row["name"])
        if self._resize_mask and mask.shape != image.shape[1:]:
            mask = resize_labels(mask, image.shape[1:])
        return Sample(image=image, mask=mask, caption=row["caption"], name=row["name"], index=index)

    def read(self, index: int) -> dict:
        """Decode one row; a picture that cannot be decoded is a UserError that names it."""
        try:
            return self.table[index]
        except (OSError, SyntaxError) as error:
            name = self.table.select_columns(["name"])[index]["name"]
            raise UserError(f"the image or mask of {name} cannot be decoded ({error}): replace or remove it.") from error

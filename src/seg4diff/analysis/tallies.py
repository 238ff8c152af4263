"""What studies count with: tensors that are added, or joined, over batches, processes and stopped runs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seg4diff.analysis.scene import Place
from seg4diff.backbones.runtime import own_device

KEYS = 3
"""Columns before the values: number of the image, noise level, block."""


class ImageValues(Metric):
    """A few values of every image at every noise level and block; the images can be drawn again for an interval.

    Args:
        levels: number of noise levels L.
        blocks: number of blocks B.
        values: number of values Q.
    """

    full_state_update = False

    def __init__(self, levels: int, blocks: int, values: int) -> None:
        super().__init__()
        self._shape = (levels, blocks, values)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, place: Place, values: Tensor) -> None:
        """Note the values (Q,) of one place; NaN for one that this model does not have."""
        keys = values.new_tensor([place.case.number, place.level, place.block], dtype=torch.float32)  # exact up to 16 million images
        self.rows.append(torch.cat([keys, values.float()])[None].to(self.device))

    def compute(self) -> tuple[list[int], Tensor]:
        """Numbers of the N images in rising order, whatever process saw them, and their values (N, L, B, Q), NaN where there are none."""
        rows = dim_zero_cat(self.rows).cpu().double() if len(self.rows) else torch.zeros(0, KEYS + self._shape[2]).double()
        images, places = rows[:, 0].unique(return_inverse=True)
        values = torch.full((len(images), *self._shape), float("nan"), dtype=torch.float64)
        values[places, rows[:, 1].long(), rows[:, 2].long()] = rows[:, KEYS:]
        return images.long().tolist(), values

    def of_images(self) -> tuple[list[int], Tensor]:
        """As `compute`, with all of its axes: torchmetrics takes them from a single value."""
        images, values = self.compute()
        return images, values.reshape(len(images), *self._shape)


class HeadMeans(Metric):
    """Means over the images, for every noise level, block and head.

    Args:
        levels: number of noise levels L.
        blocks: number of blocks B.
        heads: number of heads H.
        values: number of values Q.
    """

    full_state_update = False

    def __init__(self, levels: int, blocks: int, heads: int, values: int) -> None:
        super().__init__()
        wide = torch.float32 if own_device() == "mps" else torch.float64  # which knows no double
        for name in ("total", "images"):
            self.add_state(name, torch.zeros(levels, blocks, heads, values, dtype=wide), dist_reduce_fx="sum")

    def update(self, place: Place, values: Tensor) -> None:
        """Count the values (H, Q) of one place; NaN is not counted."""
        own = values.detach().to(self.total)
        self.total[place.level, place.block] += own.nan_to_num(0.0)
        self.images[place.level, place.block] += ~own.isnan()

    def compute(self) -> Tensor:
        """(L, B, H, Q), NaN where nothing was counted."""
        return self.total.cpu().double() / self.images.cpu().double()


class ClassCounts(Metric):
    """Pixels that are right, predicted and true of each class, summed over the images, for every noise level, block and way of reading.

    Args:
        levels: number of noise levels L.
        blocks: number of blocks B.
        ways: number of ways of reading W.
        classes: number of classes C.
    """

    full_state_update = False

    def __init__(self, levels: int, blocks: int, ways: int, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(levels, blocks, ways, 3, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, place: Place, counts: Sequence[Tensor]) -> None:
        """Count one place: `counts_of` each way, (3, C)."""
        self.counts[place.level, place.block] += torch.stack(list(counts)).to(self.counts.device)

    def compute(self) -> Tensor:
        """(L, B, W, 3, C)."""
        return self.counts.cpu()


class ImageClassCounts(Metric):
    """As `ClassCounts` with one way of reading, for each image: a row for each class that it shows or is said to show.

    Args:
        classes: number of classes C.
    """

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, place: Place, counts: Tensor) -> None:
        """Note the counts (3, C) of one place."""
        found = counts.any(dim=0).nonzero()[:, 0]
        keys = torch.tensor([place.case.number, place.level, place.block]).expand(len(found), KEYS)
        self.rows.append(torch.cat([keys, found[:, None], counts[:, found].T], dim=1).int().to(self.device))

    def compute(self) -> Tensor:
        """(rows, 7) int32: number of the image, noise level, block, class, pixels that are right, predicted, true; sorted."""
        rows = dim_zero_cat(self.rows).cpu() if len(self.rows) else torch.zeros(0, KEYS + 4, dtype=torch.int32)
        return rows.unique(dim=0)


def counts_per_image(rows: Tensor, level: int, block: int, classes: int) -> Tensor:
    """The counts of each image at one noise level and block (N, 3, C), from the rows of `ImageClassCounts`.

    All images of the rows are there, in rising order of their numbers, so that blocks can be compared image by image.
    """
    images, places = rows[:, 0].unique(return_inverse=True)
    own = (rows[:, 1] == level) & (rows[:, 2] == block)
    counts = torch.zeros(len(images), 3, classes, dtype=torch.int64)
    counts[places[own], :, rows[own, 3].long()] = rows[own, KEYS + 1 :].long()
    return counts

"""How far a score would move with other images or prompts of the same kind: percentile bootstrap (Efron and Tibshirani 1993)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seg4diff.evaluation.metrics import confusion_of, counts_of, mean_iou

AT_ONCE = 64
"""Resamples that are drawn before they are counted; bounds the memory, changes no figure."""


class ImageCounts(Metric):
    """The counts of every image, from which any resample of the data set can be scored.

    Args:
        classes: number of classes C.
    """

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, index: int, predicted: Tensor, truth: Tensor) -> None:
        """Count one label map.

        Args:
            index: number of the image in the data set.
            predicted: see `SegmentationScore.update`.
            truth: see `SegmentationScore.update`.
        """
        counts = counts_of(confusion_of(predicted, truth, self._classes))
        self.rows.append(torch.cat([torch.tensor([index]), counts.flatten()])[None].to(self.device))

    def compute(self) -> tuple[list[int], Tensor]:
        """Numbers of the N images in rising order, whatever process saw them; right, predicted and true pixels of each (N, 3, C)."""
        rows = dim_zero_cat(self.rows).cpu()
        rows = rows[rows[:, 0].argsort()]
        return rows[:, 0].tolist(), rows[:, 1:].unflatten(1, (3, self._classes))


def resampled_miou(counts: Tensor, resamples: int, seed: int) -> Tensor:
    """Mean IoU of data sets of N images drawn with replacement from N images.

    Classes that a resample does not show are not part of its mean, as for any data set. Two variants of a model that are resampled with
    one seed meet the same draws, so the differences of their scores are paired.

    Args:
        counts: (N, 3, C), see `ImageCounts`.
        resamples: number of resamples R.
        seed: seed of the draws.

    Returns:
        (R,) in [0, 1].
    """
    flat = counts.flatten(1).double()
    sums = (times @ flat for times in times_drawn(len(counts), resamples, seed))  # of whole numbers: exact in any order
    return torch.cat([mean_iou(own.unflatten(1, counts.shape[1:])) for own in sums])


def resampled_mean(totals: Tensor, images: Tensor, resamples: int, seed: int) -> Tensor:
    """Mean over the images of N prompts that are drawn with replacement: the images of a prompt are drawn together.

    Args:
        totals: (N,) sum of the values of a prompt's images.
        images: (N,) number of its images, at least 1.
        resamples: number of resamples R.
        seed: seed of the draws.

    Returns:
        (R,) float64.
    """
    both = torch.stack([totals, images], dim=1).double()
    sums = torch.cat([times @ both for times in times_drawn(len(both), resamples, seed)])
    return sums[:, 0] / sums[:, 1]


def times_drawn(items: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each of N items is drawn in each resample: (at most `AT_ONCE`, N) float64 at a time."""
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, resamples, AT_ONCE):
        draws = [torch.randint(items, (items,), generator=generator) for _ in range(min(AT_ONCE, resamples - first))]
        yield torch.stack([torch.bincount(drawn, minlength=items) for drawn in draws]).double()


def intervals(counts: dict[str, Tensor], resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the mean IoU of each variant, and of what a LoRA adds to the base model.

    Args:
        counts: (N, 3, C) of the same images by variant, "base" and maybe "lora".
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        (low, high) by variant; with a LoRA also of the "gain".
    """
    found = {variant: resampled_miou(own, resamples, seed) for variant, own in counts.items()}
    if "lora" in counts:
        found["gain"] = found["lora"] - found["base"]
    return {name: percentile_interval(values) for name, values in found.items()}


def percentile_interval(values: Tensor, inside: float = 0.95) -> tuple[float, float]:
    """The middle share `inside` of values (R,): (low, high), without NaN, the score of a resample in which nothing is labelled."""
    tail = (1 - inside) / 2
    low, high = torch.nanquantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high

"""Image-blind baselines, which segment without looking at the image, and the upper bound that the token grid sets."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seg4diff.data.geometry import Size, size_of
from seg4diff.data.sample import IGNORE, present_classes
from seg4diff.evaluation.matching import matched_labels
from seg4diff.evaluation.metrics import SegmentationScore, by_name, mean_iou
from seg4diff.segmentation.frame import Frame

TILES = {"single": 1, "tiles": 3}
"""Baselines of segmentation without words: name -> equal parts along each side of the image."""


class GuessBaselines(Metric):
    """Scores of guessing a class under the same prompt protocol, computed from label maps alone.

    An oracle prompt tells which classes are present, so an image with one class scores 100 % by construction.

    Args:
        classes: number of classes C.
        oracle: True = the guess may use the classes present in each image, False = the whole vocabulary.
        background: id of the class that may be predicted in every image, or None.
    """

    full_state_update = False

    def __init__(self, classes: int, oracle: bool, background: int | None = None) -> None:
        super().__init__()
        self._classes, self._oracle, self._background = classes, oracle, background
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, mask: Tensor) -> None:
        """Count the pixels of each class of one label map (H, W)."""
        self.counts.append(torch.bincount(mask[mask != IGNORE].flatten().cpu(), minlength=self._classes)[None].to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """MIoU in [0, 1] of two guesses.

        Returns:
            constant: every image is filled with one class, the one of the allowed classes that has most pixels in the data set;
            random: every pixel takes one of the allowed classes with equal chance (the expected confusion matrix).
        """
        counts = dim_zero_cat(self.counts).cpu().double()  # some accelerators have no double
        shares = guesses(counts, self._oracle, self._background)
        return {name: mean_iou(guessed_counts(counts, own).sum(dim=0)) for name, own in shares.items()}


def guesses(counts: Tensor, oracle: bool, background: int | None) -> dict[str, Tensor]:
    """The share of the pixels of each image that a guess gives to each class, (N, C), by name, see `GuessBaselines`.

    Args:
        counts: (N, C) pixels of each class of each image.
        oracle: see the class.
        background: see the class.
    """
    allowed = counts > 0 if oracle else torch.ones_like(counts, dtype=torch.bool)
    if background is not None:
        allowed[:, background] = True
    frequent = torch.where(allowed, counts.sum(dim=0), -1).argmax(dim=1)
    return {
        "constant": one_hot(frequent, counts.shape[1]).to(counts.dtype),
        "random": allowed.double() / allowed.sum(dim=1, keepdim=True).clamp_min(1),
    }


def guessed_counts(counts: Tensor, shares: Tensor) -> Tensor:
    """Counts (N, 3, C), see `counts_of`, where each class gets a share of the pixels of an image, wherever they lie: both (N, C)."""
    return torch.stack([counts * shares, counts.sum(dim=1, keepdim=True) * shares, counts], dim=1)


class TileBaselines(nn.Module):
    """Scores of equal tiles as proposals, under the same matching.

    Args:
        classes: number of classes.
        shared: see `matched_labels`.
    """

    def __init__(self, classes: int, shared: int | None) -> None:
        super().__init__()
        self._classes, self._shared = classes, shared
        self.scores = by_name({name: SegmentationScore(classes) for name in TILES})

    def update(self, mask: Tensor) -> None:
        """Count one label map (H, W)."""
        for name, parts in TILES.items():
            labels = matched_labels(tiles(size_of(mask), parts).to(mask.device), mask, self._classes, self._shared)
            self.scores[name].update(labels, mask)

    def compute(self) -> dict[str, Tensor]:
        """MIoU in [0, 1] of one proposal that is the whole image ("single"), and of nine equal ones ("tiles")."""
        return {name: score.compute()["miou"] for name, score in self.scores.items()}


def tiles(size: Size, parts: int) -> Tensor:
    """Proposal numbers of `parts` x `parts` equal rectangles, (H, W)."""
    rows, columns = (torch.arange(length) * parts // length for length in size)
    return rows[:, None] * parts + columns


def grid_upper_bound(mask: Tensor, grid: Size, frame: Frame, refine: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The label map of perfect attention maps: the true mask (H, W), averaged on the token grid, upsampled, argmax. Returns (H, W).

    Args:
        mask: the true label map.
        grid: (rows, columns) of the image tokens.
        frame: where the mask lies.
        refine: what becomes of the upsampled maps (C, H, W); None = nothing.
    """
    classes = present_classes(mask)
    if not classes:
        return torch.zeros_like(mask)
    truth = torch.stack([mask == k for k in classes]).float()
    pixels = frame.upsample(frame.average(truth, grid))
    return torch.tensor(classes, device=mask.device)[(pixels if refine is None else refine(pixels)).max(dim=0).indices]

"""Segmentation scores over one confusion matrix per data set."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from seg4diff.data.sample import IGNORE

Kind = TypeVar("Kind", bound=nn.Module)


def by_name(modules: Mapping[str, Kind]) -> Mapping[str, Kind]:
    """Modules of one kind as an nn.ModuleDict, which by its own hints holds modules of any kind."""
    held: Any = nn.ModuleDict(modules)
    return held


class SegmentationScore(Metric):
    """Confusion matrix over a whole data set; sums over processes, so every image counts once and equally by pixel.

    The last column counts pixels that are predicted to be of no class: false negatives of their true class, false positives of none.

    Args:
        classes: number of classes C.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.add_state("confusion", torch.zeros(classes, classes + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count one label map.

        Args:
            predicted: (H, W) class ids in [0, C), or `IGNORE` for no class.
            truth: (H, W) class ids in [0, C), or `IGNORE` where nothing counts.
        """
        self.confusion += confusion_of(predicted, truth, self._classes).to(self.confusion.device)

    def compute(self) -> dict[str, Tensor]:
        """See `scores`."""
        return scores(counts_of(self.confusion))


def confusion_of(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of two label maps by true (rows) and predicted class (columns, the last one for `IGNORE`): (C, C + 1) on the CPU."""
    counted = truth != IGNORE
    predicted = torch.where(predicted == IGNORE, classes, predicted)
    pairs = (truth * (classes + 1) + predicted)[counted].flatten().cpu()
    return torch.bincount(pairs, minlength=classes * (classes + 1)).view(classes, classes + 1)


def counts_of(confusion: Tensor) -> Tensor:
    """What every score here needs of a confusion matrix (C, C + 1): pixels that are right, predicted and true of each class, (3, C)."""
    classes = len(confusion)
    return torch.stack([confusion.diagonal(), confusion.sum(dim=0)[:classes], confusion.sum(dim=1)])


def mean_iou(counts: Tensor) -> Tensor:
    """Mean IoU over the classes that occur in the ground truth: counts (..., 3, C) as of `counts_of` -> (...,), in [0, 1]."""
    right, predicted, truth = counts.cpu().double().unbind(dim=-2)  # some accelerators have no double
    present = truth > 0
    return (right / (truth + predicted - right)).where(present, 0).sum(dim=-1) / present.sum(dim=-1)


def scores(counts: Tensor) -> dict[str, Tensor]:
    """Figures of the counts (3, C) of a data set, see `counts_of`.

    Returns:
        miou: mean IoU over the classes that occur in the ground truth (Detectron2's definition, the release's);
        miou_union: mean IoU over the classes that occur in ground truth or prediction (mmsegmentation's);
        macc: mean recall over the classes in the ground truth; pacc: share of pixels that are right;
        fwiou: IoU weighted by ground-truth pixels; iou: (C,) per class, NaN for a class that occurs in neither.
        All in [0, 1].
    """
    right, predicted, truth = counts.cpu().double()
    union = truth + predicted - right
    iou = right / union
    present = truth > 0
    return {
        "miou": mean_iou(counts),
        "miou_union": iou[union > 0].mean(),
        "macc": (right / truth)[present].mean(),
        "pacc": right.sum() / truth.sum(),
        "fwiou": (truth * iou)[present].sum() / truth.sum(),
        "iou": iou,
    }

"""Segmentation scores over one confusion matrix per data set."""

import torch
from torch import Tensor
from torchmetrics import Metric

from seg4diff.data.sample import IGNORE


class SegmentationScore(Metric):
    """Confusion matrix over a whole data set; sums over processes, so every image counts once and equally by pixel.

    Args:
        classes: number of classes C.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count one label map.

        Args:
            predicted: (H, W) class ids in [0, C).
            truth: (H, W) class ids in [0, C) or `IGNORE`.
        """
        counted = truth != IGNORE
        pairs = truth[counted] * self._classes + predicted[counted]
        self.confusion += torch.bincount(pairs.cpu(), minlength=self._classes**2).view_as(self.confusion).to(self.confusion.device)

    def compute(self) -> dict[str, Tensor]:
        """See `scores`."""
        return scores(self.confusion)


def scores(confusion: Tensor) -> dict[str, Tensor]:
    """Figures of a confusion matrix (rows = truth, columns = prediction).

    Returns:
        miou: mean IoU over the classes that occur in the ground truth (Detectron2's definition, the release's);
        miou_union: mean IoU over the classes that occur in ground truth or prediction (mmsegmentation's);
        macc: mean recall over the classes in the ground truth; pacc: share of pixels that are right;
        fwiou: IoU weighted by ground-truth pixels; iou: (C,) per class, NaN for a class that occurs in neither.
        All in [0, 1].
    """
    confusion = confusion.cpu().double()  # some accelerators have no double
    right, truth, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
    union = truth + predicted - right
    iou = right / union
    present = truth > 0
    return {
        "miou": iou[present].mean(),
        "miou_union": iou[union > 0].mean(),
        "macc": (right / truth)[present].mean(),
        "pacc": right.sum() / truth.sum(),
        "fwiou": (truth * iou)[present].sum() / truth.sum(),
        "iou": iou,
    }

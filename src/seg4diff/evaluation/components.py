"""How well connected parts of the true masks are found, small and large ones apart."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from seg4diff.data.sample import IGNORE
from seg4diff.segmentation.instances import instances

SMALL = 0.02
"""Share of the picture below which a part is small."""


class ComponentScore(Metric):
    """Mean IoU of the true connected parts with the prediction of their class within their bounding box, of small and of large parts."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor, classes: Sequence[str]) -> None:
        """Count one label map; both (H, W), `IGNORE` where nothing counts."""
        found, true = predicted.cpu().numpy(), truth.cpu().numpy()
        for part in instances(true, classes, 1):
            left, top, width, height = part.box
            box = (slice(top, top + height), slice(left, left + width))
            own = (found[box] == part.category) & (true[box] != IGNORE)
            iou = (own & part.mask[box]).sum() / (own | part.mask[box]).sum()
            self.sums[int(part.area >= SMALL * true.size)] += torch.tensor([iou, 1.0], dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float]:
        """{"small", "large"} in [0, 1]; NaN where there is no such part."""
        small, large = (self.sums[:, 0] / self.sums[:, 1]).tolist()
        return {"small": small, "large": large}

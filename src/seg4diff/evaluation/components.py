"""How well connected parts of the true masks are found, small and large ones apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from torch import Tensor
from torchmetrics import Metric

from seg4diff.data.sample import IGNORE
from seg4diff.segmentation.instances import NEIGHBOURS

SMALL = 0.02
"""Share of the picture below which a part is small."""


class Part(NamedTuple):
    """A connected part of a true mask: its class, its bounding box, its pixels and those that count in the box, whether it is large."""

    category: int
    box: tuple[slice, slice]
    pixels: np.ndarray
    counted: np.ndarray
    large: bool


def true_parts(truth: Tensor) -> list[Part]:
    """The connected parts of a label map (H, W), `IGNORE` where nothing counts."""
    true, found = truth.cpu().numpy(), []
    for category in np.unique(true[true != IGNORE]):
        numbered, _ = label(true == category, NEIGHBOURS)
        for number, box in enumerate(find_objects(numbered), start=1):
            pixels = numbered[box] == number
            found.append(Part(int(category), box, pixels, true[box] != IGNORE, bool(pixels.sum() >= SMALL * true.size)))
    return found


class ComponentScore(Metric):
    """Mean IoU of the true connected parts with the prediction of their class within their bounding box, of small and of large parts."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, parts: Sequence[Part]) -> None:
        """Count one label map (H, W) against the parts of the true one."""
        found, sums = predicted.cpu().numpy(), np.zeros((2, 2))
        for part in parts:
            own = (found[part.box] == part.category) & part.counted
            sums[int(part.large)] += ((own & part.pixels).sum() / (own | part.pixels).sum(), 1)
        self.sums += torch.from_numpy(sums).to(self.sums)

    def compute(self) -> dict[str, float]:
        """{"small", "large"} in [0, 1]; NaN where there is no such part."""
        small, large = (self.sums[:, 0] / self.sums[:, 1]).tolist()
        return {"small": small, "large": large}

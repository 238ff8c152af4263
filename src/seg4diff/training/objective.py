"""Mask alignment, MAGNET: flow matching + focal + dice on the expert's I2T logits of the same forward pass (paper, section 3.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, mse_loss, softplus

from seg4diff.data.geometry import size_of
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError, at_least
from seg4diff.finite import require_finite
from seg4diff.segmentation.frame import upsample


@dataclass(frozen=True)
class Regions:
    """What the maps of one image are compared with.

    Attributes:
        masks: (M, H, W) bool, one region per map; regions may overlap.
        counted: (H, W) bool, the pixels that count.
    """

    masks: Tensor
    counted: Tensor


def named_regions(labels: Tensor, classes: Sequence[int]) -> Regions:
    """The regions of these classes in a label map (H, W); `IGNORE` pixels do not count."""
    masks = [labels == k for k in classes]
    return Regions(torch.stack(masks) if masks else labels.new_zeros(0, *labels.shape, dtype=torch.bool), labels != IGNORE)


class MaskAlignment:
    """The training objective; returns its unweighted terms by name.

    loss = flow + mask_weight * focal + dice_weight * dice

    Args:
        flow_weight: weight of the flow-matching term.
        mask_weight: weight of the focal term.
        dice_weight: weight of the dice term.
        focal_alpha: weight of mask pixels against the others in the focal term.
        focal_gamma: how strongly the focal term discounts pixels that are right already.
    """

    def __init__(
        self, *, flow_weight: float, mask_weight: float, dice_weight: float, focal_alpha: float = 0.25, focal_gamma: float = 2.0
    ) -> None:
        at_least(0, flow_weight=flow_weight, mask_weight=mask_weight, dice_weight=dice_weight, focal_gamma=focal_gamma)
        if not 0 <= focal_alpha <= 1:
            raise UserError(f"`focal_alpha` must be in [0, 1], found {focal_alpha}.")
        if 0 < focal_gamma < 1:
            raise UserError(f"`focal_gamma` must be 0 or at least 1 (its gradient has no bound between), found {focal_gamma}.")
        self.weights = {"flow": flow_weight, "focal": mask_weight, "dice": dice_weight}
        self._alpha, self._gamma = focal_alpha, focal_gamma

    def __call__(self, predicted: Tensor, target: Tensor, maps: Sequence[Tensor], regions: Sequence[Regions]) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            predicted: velocity (B, C, h, w).
            target: its target, same shape.
            maps: B tensors of logits (M, rows, columns), unbounded, on the token grid.
            regions: for each image the M regions that its maps belong to.

        Returns:
            {"flow", "focal", "dice", "loss"}: scalars; "loss" is the weighted sum.
        """
        # Mean over the maps of an image, then over the images: processes and accumulated batches of one size then average exactly.
        per_image = [
            self._compare(upsample(logits, own.counted.shape), own).mean(dim=1) if len(own.masks) else predicted.new_zeros(2)
            for logits, own in zip(maps, regions, strict=True)
        ]
        focal, dice = torch.stack(per_image).mean(dim=0)
        wide = torch.promote_types(predicted.dtype, torch.float32)
        terms = {"flow": mse_loss(predicted.to(wide), target.to(wide)), "focal": focal, "dice": dice}
        return terms | {"loss": sum(self.weights[name] * term for name, term in terms.items())}

    def _compare(self, logits: Tensor, regions: Regions) -> Tensor:
        """Focal and dice of each map of one image: (2, M)."""
        truth, counted = regions.masks.float(), regions.counted.float()
        return torch.stack([focal_loss(logits, truth, counted, self._alpha, self._gamma), dice_loss(logits.sigmoid(), truth, counted)])

    @torch.no_grad()
    def match(self, candidates: Tensor, regions: Regions) -> tuple[list[int], list[int]]:
        """For each of the M regions a candidate of its own, so that their weighted focal and dice losses are smallest together.

        The Hungarian matching of the paper for masks without names (section 3.5). The costs are those of the loss, on the token grid,
        where a region is the share of each token that it covers. They are formed in float32 whatever autocast is on: areas in pixels are
        beyond the range of float16.

        Args:
            candidates: (K, rows, columns) logits.
            regions: the regions, at any size.

        Returns:
            Numbers of regions and of their candidates. With K < M these are K regions, those that fit best; else all of them, in order.

        Raises:
            UserError: candidates that are not finite.
        """
        require_finite(candidates, "the maps to be matched with masks")
        with torch.autocast(candidates.device.type, enabled=False):
            cost = self._costs(candidates.float(), regions)
        kept, chosen = linear_sum_assignment(cost.T.cpu().numpy())
        return kept.tolist(), chosen.tolist()

    def _costs(self, candidates: Tensor, regions: Regions) -> Tensor:
        """Weighted focal and dice of every candidate with every region, (K, M)."""
        grid = size_of(candidates)
        counted = adaptive_avg_pool2d(regions.counted[None].float(), grid).flatten()
        inside = (adaptive_avg_pool2d((regions.masks & regions.counted).float(), grid)).flatten(1)  # (M, N)
        outside = counted - inside
        logits = candidates.flatten(1)
        probability = logits.sigmoid()
        right = self._alpha * (1 - probability) ** self._gamma * softplus(-logits)
        wrong = (1 - self._alpha) * probability**self._gamma * softplus(logits)
        focal = (right @ inside.T + wrong @ outside.T) / counted.sum().clamp_min(1e-6)
        # Areas in pixels, as in the loss: the +1 of the dice is one pixel.
        pixels = regions.counted.numel() / counted.numel()
        both, areas = probability @ inside.T, (probability @ counted)[:, None] + inside.sum(dim=1)
        dice = 1 - (2 * pixels * both + 1) / (pixels * areas + 1)
        return self.weights["focal"] * focal + self.weights["dice"] * dice


def focal_loss(logits: Tensor, truth: Tensor, counted: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss, mean over counted pixels (Lin et al. 2017, eq. 5): (M, H, W) -> (M,)."""
    probability = logits.sigmoid()
    wrong = truth * (1 - probability) + (1 - truth) * probability
    weight = truth * alpha + (1 - truth) * (1 - alpha)
    loss = weight * wrong**gamma * binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (loss * counted).sum(dim=(-2, -1)) / counted.sum().clamp_min(1)


def dice_loss(probability: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """1 - (2 |P T| + 1) / (|P| + |T| + 1), with soft areas (Milletari et al. 2016): (M, H, W) -> (M,)."""
    probability, truth = probability * counted, truth * counted
    overlap = 2 * (probability * truth).sum(dim=(-2, -1)) + 1
    return 1 - overlap / (probability.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)

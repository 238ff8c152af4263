"""Mask alignment, MAGNET: flow matching + focal + dice on the expert's I2T logits of the same forward pass (paper, section 3.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError
from seg4diff.segmentation.readout import upsample


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
        if 0 < focal_gamma < 1:
            raise UserError(f"focal_gamma must be 0 or at least 1 (its gradient has no bound between), found {focal_gamma}.")
        self.weights = {"flow": flow_weight, "focal": mask_weight, "dice": dice_weight}
        self._alpha, self._gamma = focal_alpha, focal_gamma

    def __call__(
        self, predicted: Tensor, target: Tensor, class_logits: Sequence[Tensor], classes: Sequence[Sequence[int]], masks: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            predicted: velocity (B, C, h, w).
            target: its target, same shape.
            class_logits: B tensors (classes of the prompt, rows, columns), unbounded, on the token grid.
            classes: B lists of class ids, one per map.
            masks: B label maps (H, W); `IGNORE` pixels do not count.

        Returns:
            {"flow", "focal", "dice", "loss"}: scalars; "loss" is the weighted sum.
        """
        # Mean over the maps of an image, then over the images: processes and accumulated batches of one size then average exactly.
        per_image = [
            self._compare(upsample(logits, mask.shape), mask, ids).mean(dim=1) if len(ids) else predicted.new_zeros(2)
            for logits, ids, mask in zip(class_logits, classes, masks, strict=True)
        ]
        focal, dice = torch.stack(per_image).mean(dim=0)
        wide = torch.promote_types(predicted.dtype, torch.float32)
        terms = {"flow": mse_loss(predicted.to(wide), target.to(wide)), "focal": focal, "dice": dice}
        return terms | {"loss": sum(self.weights[name] * term for name, term in terms.items())}

    def _compare(self, logits: Tensor, mask: Tensor, ids: Sequence[int]) -> Tensor:
        """Focal and dice of each map of one image: (2, classes)."""
        truth = torch.stack([mask == k for k in ids]).float()
        counted = (mask != IGNORE).float()
        return torch.stack([focal_loss(logits, truth, counted, self._alpha, self._gamma), dice_loss(logits.sigmoid(), truth, counted)])


def focal_loss(logits: Tensor, truth: Tensor, counted: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss, mean over counted pixels (Lin et al. 2017, eq. 5): (classes, H, W) -> (classes,)."""
    probability = logits.sigmoid()
    wrong = truth * (1 - probability) + (1 - truth) * probability
    weight = truth * alpha + (1 - truth) * (1 - alpha)
    loss = weight * wrong**gamma * binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (loss * counted).sum(dim=(-2, -1)) / counted.sum().clamp_min(1)


def dice_loss(probability: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """1 - (2 |P T| + 1) / (|P| + |T| + 1), with soft areas (Milletari et al. 2016): (classes, H, W) -> (classes,)."""
    probability, truth = probability * counted, truth * counted
    overlap = 2 * (probability * truth).sum(dim=(-2, -1)) + 1
    return 1 - overlap / (probability.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)

"""Class maps made constant on the masks of SAM or SAM 2, whose weights the user names."""

from collections.abc import Iterator

import torch
from torch import Tensor

from seg4diff.backbones.networks import load_sam
from seg4diff.data.sample import tensor_to_image
from seg4diff.errors import UserError, at_least


class Sam:
    """Asks SAM for the mask of each point of a grid; a pixel takes the mean of each map over the smallest mask that it is in.

    Args:
        weights: folder or hub id of a SAM or SAM 2 model with its processor.
        points: points along each side of the picture.
        confidence: IoU in [0, 1] that SAM must expect of a mask.
        at_once: points that are asked together.

    Raises:
        UserError: the weights are missing or of another kind.
    """

    def __init__(self, *, weights: str | None, points: int = 32, confidence: float = 0.8, at_once: int = 64) -> None:
        at_least(1, points=points, at_once=at_once)
        if weights is None:
            raise UserError("`weights` must name a SAM or SAM 2 model, a folder or a hub id such as facebook/sam-vit-base.")
        self._points, self._confidence, self._at_once = points, confidence, at_once
        self._network, self._prepare = load_sam(weights)

    @torch.no_grad()
    def __call__(self, maps: Tensor, picture: Tensor) -> Tensor:
        """Refine: class maps (C, H, W) on the scale of the given ones."""
        refined, smallest = maps.clone(), torch.full(maps.shape[1:], torch.inf, device=maps.device)
        for mask in self.masks(picture):
            own = mask & (mask.sum() < smallest)
            smallest[own] = mask.sum().float()
            refined[:, own] = maps[:, mask].mean(dim=1, keepdim=True)
        return refined

    def masks(self, picture: Tensor) -> Iterator[Tensor]:
        """The masks (H, W) bool of a picture (3, H, W) in [0, 1], none of them empty."""
        network = self._network.to(picture.device)
        prepared = self._prepare(images=tensor_to_image(2 * picture - 1), input_points=self._grid(*picture.shape[1:]), return_tensors="pt")
        embeddings = network.get_image_embeddings(prepared["pixel_values"].to(picture.device))
        sizes = {name: prepared[name] for name in ("original_sizes", "reshaped_input_sizes") if name in prepared}
        for points in prepared["input_points"].to(picture.device, torch.float32).split(self._at_once, dim=1):
            found = network(image_embeddings=embeddings, input_points=points, multimask_output=True)
            drawn = self._prepare.post_process_masks(found.pred_masks.cpu(), **sizes)[0].to(picture.device)
            for own, scores in zip(drawn, found.iou_scores[0], strict=True):
                best = int(scores.argmax())
                if scores[best] >= self._confidence and own[best].any():
                    yield own[best]

    def _grid(self, height: int, width: int) -> list[list[list[list[float]]]]:
        """The points (x, y), each alone."""
        shares = [(k + 0.5) / self._points for k in range(self._points)]
        return [[[[x * width, y * height]] for y in shares for x in shares]]

"""Segmentation without words: maps of an empty prompt's tokens, merged until each is one proposal (paper, section 3.4, appendix A.4).

DiffSeg is Tian et al. 2024 (arXiv 2308.12469), section 3.2, with self-attention maps in place of ours.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.readout import Readout

Contrast = Literal["own", "minmax"]
"""How a map becomes a distribution over the image tokens, and so in which unit two of them differ.

"own": the map over its sum (DiffSeg). "minmax": the softmax of its values scaled to [0, 1] (the release). Where maps are nearly
flat, the divergence of two of them is half the variance over the tokens of the difference d of their values: in units of their mean for
"own", of their range for "minmax". With r = range / mean of a map, a threshold t for "minmax" is about r^2 t between maps as
they are. r differs from model to model, so a value for "own" fits one model; one for "minmax" does not depend on it.
"""


class ProposalReadout:
    """How proposals are read from a backbone with the empty prompt.

    Args:
        readout: how the maps of the empty prompt are read; its normalisation and its background are for class maps and are not used.
        threshold: symmetric KL divergence in nats below which two maps are of one proposal; 0 merges nothing.
        rounds: how often merging is repeated on its own result.
        contrast: see `Contrast`.
    """

    def __init__(self, *, readout: Readout, threshold: float, rounds: int, contrast: Contrast = "own") -> None:
        if readout.scores == "logits":
            raise UserError("logits are no distribution: proposals need `readout.scores=joint` or `readout.scores=text`.")
        if not isinstance(threshold, int | float) or not threshold >= 0 or rounds < 0:  # NaN is not above 0 either
            raise UserError(f"`threshold` and `rounds` must be at least 0, found {threshold!r} and {rounds}.")
        if contrast not in get_args(Contrast):
            raise UserError(f"`contrast` must be one of {', '.join(get_args(Contrast))}, found '{contrast}'.")
        self._readout, self._threshold, self._rounds, self._contrast = readout, threshold, rounds, contrast

    @torch.no_grad()
    def proposals(self, backbone: Backbone, images: Tensor, image_ids: Sequence[int], blocks: Sequence[int]) -> dict[int, list[Tensor]]:
        """Read several blocks in one pass.

        Args:
            backbone: the model.
            images: (B, 3, H, W) in [-1, 1].
            image_ids: B numbers that seed the noise.
            blocks: block indices.

        Returns:
            For each block B tensors (proposals, h, w), each map a distribution over the image tokens.
        """
        read = self._readout.empty_prompt_maps(backbone, images, image_ids, blocks)
        return {block: [self.merge_maps(own) for own in maps] for block, maps in read}

    def merge_maps(self, maps: Tensor) -> Tensor:
        """Maps (T, h, w) of the tokens of one image, values >= 0 -> its proposals (proposals, h, w), see `proposals`."""
        return merge(distributions(maps, self._contrast), self._threshold, self._rounds)


def distributions(maps: Tensor, contrast: Contrast = "own") -> Tensor:
    """Each map of (T, h, w), values >= 0, as a distribution over the image tokens, above 0 and with sum 1 (DiffSeg, section 3.2)."""
    if contrast == "minmax":
        low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
        values = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
        return values.flatten(1).softmax(dim=1).view_as(maps)
    maps = maps.float().clamp_min(torch.finfo(torch.float32).tiny)  # where a map underflows, its logarithm must stay finite
    return maps / maps.sum(dim=(-2, -1), keepdim=True)


def symmetric_kl(maps: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of every pair of distributions (P, h, w), in nats (DiffSeg, section 3.2): (P, P) on the CPU.

    It is the sum over the tokens of (p - q) (log p - log q) / 2, so one product of maps and logarithms holds all pairs.
    """
    flat = maps.flatten(1).cpu().double()  # small differences of large sums; some accelerators have no double
    products = flat @ flat.log().T
    own = products.diagonal()
    return ((own[:, None] + own - products - products.T) / 2).clamp_min(0)


def merge(maps: Tensor, threshold: float, rounds: int) -> Tensor:
    """Greedy merging of distributions, repeated on its own result (DiffSeg, section 3.2).

    DiffSeg's first round, which thins thousands of maps by a grid of anchors, is left out: a text window holds tens of maps (as in the
    release). Its code lets a map be averaged into several proposals; here it belongs to one.

    Args:
        maps: (P, h, w), P >= 1, in the order in which they are taken.
        threshold: see `merge_once`.
        rounds: number of rounds; fewer once a round merges nothing.

    Returns:
        (P', h, w) with P' <= P, again distributions.
    """
    for _ in range(rounds):
        merged = merge_once(maps, threshold)
        if len(merged) == len(maps):
            break
        maps = merged
    return maps


def merge_once(maps: Tensor, threshold: float) -> Tensor:
    """One round: the first map takes every map closer to it than the threshold, their mean is one proposal; so on with what is left."""
    close = symmetric_kl(maps) < threshold
    left = torch.ones(len(maps), dtype=torch.bool)
    merged = []
    for first in range(len(maps)):
        if left[first]:
            taken = close[first] & left
            taken[first] = True
            left &= ~taken
            merged.append(maps[taken.to(maps.device)].mean(dim=0))
    return torch.stack(merged)


def label_proposals(proposals: Tensor, frame: Frame) -> Tensor:
    """Proposals (P, h, w) -> label map (H, W) of proposal numbers: upsample, argmax (DiffSeg's non-maximum suppression)."""
    return frame.upsample(proposals).max(dim=0).indices

"""Maps of many blocks, weighed by how well each block groups the image (GoCA, arXiv 2603.06178)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, normalize, pad

from seg4diff.attention.capture import Record
from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import affinity
from seg4diff.errors import at_least
from seg4diff.segmentation.readers.base import ClassMaps, Pass, stack, unstack

KERNEL = 5
"""Side in image tokens of the Gaussian that smooths the maps; its standard deviation is 1."""


class Aggregated:
    """I2T maps of all blocks: weighted mean, each token's maps over their sum, a Gaussian, then spread by I2I attention.

    The sum is over the words of the image; a single word keeps its map as it is. GoCA also scales the maps of each token to [0, 1], and
    names two blocks to spread by; here the readout scales each map, and the reference spreads twice.

    The weight of a block is the dot product of its I2I attention A with the similarities F F' of a reference feature, or 0 if that is
    negative. It is the sum of F * (A F) over tokens and channels, so A is applied as an operator and never formed. F is the value of a
    reference block, each token scaled to length 1, in its first principal components. These are as many as a head is wide, so it is one
    attention call for each block.

    Args:
        reference: block of the feature; None = the block that is read.
        spread_by: blocks whose I2I attention is applied to the result, one after the other; none = the reference alone.
        order: how often that is done.

    Raises:
        UserError: `order` is below 0.
    """

    per_block = False
    settings = ("heads",)

    def __init__(self, *, reference: int | None = None, spread_by: Sequence[int] = (), order: int = 2) -> None:
        at_least(0, order=order)
        self._reference, self._spread_by, self._order = reference, list(spread_by), order

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`; the maps are the same for each of the blocks but for the reference, where none is named."""
        every = list(range(len(run.backbone.attention_sites())))
        run.backbone.select_sites([*self._spread_by, *([] if self._reference is None else [self._reference])])
        record = run.capture(every)
        for block in blocks:
            yield block, self._maps(run, record, every, block if self._reference is None else self._reference)

    def _maps(self, run: Pass, record: Record, every: Sequence[int], reference: int) -> list[Tensor]:
        feature = principal_components(record[reference])
        weights = torch.stack([agreement(record[block], feature) for block in every]).clamp_min(0)
        weights = weights / weights.sum(dim=0).clamp_min(1e-12)
        mean: Tensor | None = None
        for block, weight in zip(every, weights, strict=True):
            maps = run.word_maps(record, block)
            own = stack(maps) * weight[:, None, None]
            mean = own if mean is None else mean + own
        assert mean is not None, "a model has blocks"
        shares = [own / own.sum(dim=0, keepdim=True).clamp_min(1e-12) if len(own) > 1 else own for own in unstack(mean, maps)]
        spread = stack([torch.cat([smoothed(frame) for frame in own.chunk(run.frames, dim=1)], dim=1) for own in shares])
        for _ in range(self._order):
            for block in self._spread_by or [reference]:
                spread = affinity(record[block], spread)
        return unstack(spread, shares)


def principal_components(joint: Joint) -> Tensor:
    """The values of the image tokens (B, N, heads x d), each scaled to length 1, in their first d principal components: (B, N, d)."""
    feature = normalize(joint.image_value.float().transpose(1, 2).flatten(2), dim=-1)
    _, directions = torch.linalg.eigh(feature.transpose(1, 2) @ feature)
    return feature @ directions[..., -joint.image_value.shape[-1] :]


def agreement(joint: Joint, feature: Tensor) -> Tensor:
    """Dot product of the I2I attention of a block with the similarities of a feature (B, N, d), over N: (B,)."""
    spread = affinity(joint, feature.transpose(1, 2)).transpose(1, 2)
    return (feature * spread).sum(dim=(1, 2)) / feature.shape[1]


def smoothed(maps: Tensor) -> Tensor:
    """Maps (C, h, w) after the Gaussian."""
    if not len(maps):
        return maps
    places = torch.arange(KERNEL, device=maps.device) - KERNEL // 2
    line = (-places.float().square() / 2).softmax(dim=0)
    around = pad(maps[:, None], [KERNEL // 2] * 4, mode="replicate")
    return conv2d(around, (line[:, None] * line)[None, None])[:, 0]

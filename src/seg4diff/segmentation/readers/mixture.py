"""Maps of chosen heads of several blocks."""

from collections.abc import Mapping, Sequence
from math import inf

from torch import Tensor

from seg4diff.attention.capture import Record
from seg4diff.errors import UserError
from seg4diff.segmentation.readers.base import ClassMaps, Pass, stack, unstack


class Mixture:
    """Weighted mean of the I2T maps of single heads, each class map scaled to [0, 1] first, since blocks differ in their range.

    Args:
        weights: for each block the weight of each of its heads; `python evaluate.py evaluation=mixture` fits them on a split with labels.

    Raises:
        UserError: there are no weights, or one is below 0.
    """

    per_block = False
    settings = ("scores",)

    def __init__(self, *, weights: Mapping[str, Sequence[float]] | None) -> None:
        every = [weight for own in (weights or {}).values() for weight in own]
        if (
            not weights
            or not all(str(block).isdecimal() for block in weights)
            or not any(every)
            or not all(0 <= own < inf for own in every)
        ):
            raise UserError(
                "`weights` must hold, for each block, weights of its heads of at least 0, as in {3: [0.5, 0, 0.5]}: fit them "
                "on a split with labels, see docs/readers.md."
            )
        self._weights = {int(block): list(own) for block, own in weights.items()}

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`; the maps are the same for each of the blocks."""
        run.backbone.select_sites(list(self._weights))
        heads = run.backbone.heads
        if odd := [block for block, own in self._weights.items() if len(own) != heads]:
            raise UserError(f"`weights` must hold {heads} weights for each block, one for each head: block {odd[0]} has another number.")
        record = run.capture(list(self._weights))
        mixed: Tensor | None = None
        for block, own in self._weights.items():
            for head, weight in enumerate(own):
                if weight:
                    maps = head_maps(run, record, block, head)
                    part = weight * stack(maps)
                    mixed = part if mixed is None else mixed + part
        assert mixed is not None, "some weight is above 0"
        for block in blocks:
            yield block, unstack(mixed, maps)


def head_maps(run: Pass, record: Record, block: int, head: int) -> list[Tensor]:
    """The class maps of one head, each scaled to [0, 1]: B tensors (classes, h, w)."""
    return [scaled(own) for own in run.pool(run.token_maps(record[block].of_heads([head]), block))]


def scaled(maps: Tensor) -> Tensor:
    """Maps (C, h, w), each from 0 to 1."""
    if not len(maps):
        return maps
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)

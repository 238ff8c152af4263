"""The expert's maps, spread over what belongs together by image-to-image attention."""

from collections.abc import Sequence

from torch import Tensor

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import affinity
from seg4diff.errors import at_least
from seg4diff.segmentation.readers.base import ClassMaps, Pass, stack, unstack


class Propagated:
    """Class maps of the block, to which the I2I attention of a block is applied as an operator (GoCA, arXiv 2603.06178).

    Each image token takes the mean of the maps at the tokens that it looks at: softmax over the image keys, mean over the heads. The
    maps are the values of an attention call, so the N x N matrix is never formed.

    Args:
        block: block whose I2I attention is applied; None = the block that is read.
        order: how often it is applied.

    Raises:
        UserError: `order` is below 1.
    """

    per_block = True
    settings = ("scores", "heads")

    def __init__(self, *, block: int | None = None, order: int = 1) -> None:
        at_least(1, order=order)
        self._block, self._order = block, order

    def blocks(self, read: int) -> list[int]:
        """The blocks that are needed to read a block."""
        return [read] if self._block is None else [read, self._block]

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        record = run.capture([needed for block in blocks for needed in self.blocks(block)])
        for block in blocks:
            yield block, self.spread(record[self.blocks(block)[-1]], run.word_maps(record, block))

    def spread(self, joint: Joint, maps: Sequence[Tensor]) -> list[Tensor]:
        """Apply the I2I attention of a block to B class maps (classes, h, w)."""
        spread = stack(maps)
        for _ in range(self._order):
            spread = affinity(joint, spread)
        return unstack(spread, maps)

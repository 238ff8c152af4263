"""The other direction: where the text tokens of a name look (paper, Fig. 16, without a figure)."""

from collections.abc import Sequence

from seg4diff.attention.maps import t2i_per_head
from seg4diff.segmentation.readers.base import ClassMaps, Pass


class TextToImage:
    """T2I maps of the block: softmax over all image and text keys, mean over its heads and over the tokens of each name."""

    per_block = True
    settings = ()

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        record = run.capture(blocks)
        for block in blocks:
            yield block, run.pool(t2i_per_head(record[block]).mean(dim=1))

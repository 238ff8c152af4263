"""The paper's reader: image-to-text attention of one block (section 3.4)."""

from collections.abc import Sequence

from seg4diff.segmentation.readers.base import ClassMaps, Pass


class Expert:
    """I2T maps of the block, mean over its heads and over the tokens of each name; content and heads are those of the `Readout`."""

    per_block = True
    settings = ("scores", "heads")

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        record = run.capture(blocks)
        for block in blocks:
            yield block, run.word_maps(record, block)

"""Keep the queries, keys and values of some blocks of one forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seg4diff.attention.joint import Joint
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError


class Record:
    """What `capture` keeps, by block index."""

    def __init__(self) -> None:
        self._joint: dict[int, Joint] = {}

    def keep(self, visit: Visit) -> None:
        """Keep what a visit shows."""
        if visit.number > 0:
            raise UserError("capture keeps one forward pass, and this is another: open it anew for each, or use `stream`.")
        self._joint[visit.block] = visit.joint

    def __getitem__(self, block: int) -> Joint:
        if block not in self._joint:
            raise UserError(f"block {block} recorded nothing: run the transformer inside `capture`, without skipping this block.")
        return self._joint[block]


@contextmanager
def capture(backbone: Backbone, blocks: Sequence[int], *, stop: bool = False) -> Iterator[Record]:
    """Keep what enters the attention of these blocks in one forward pass of `backbone.predict_velocity`.

    The tensors are the model's own and part of its graph, so gradients reach LoRA on the projections. Memory grows with the number of
    blocks; `stream` reads them one by one instead.

    Args:
        backbone: the model.
        blocks: 0-based indices of joint-attention blocks.
        stop: see `stream`.

    Yields:
        A `Record`; `record[block]` is a `Joint`.

    Raises:
        UserError: a block does not exist, or a second pass runs inside.
    """
    record = Record()
    with stream(backbone, blocks, record.keep, stop=stop):
        yield record

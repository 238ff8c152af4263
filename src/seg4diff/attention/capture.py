"""Record the queries and keys of joint-attention blocks while the host's own attention runs untouched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

from seg4diff.backbones.base import Backbone, JointQK
from seg4diff.errors import UserError


class Reached(Exception):
    """Raised inside the host's forward once everything asked for is recorded; `capture` swallows it."""


class Record:
    """Queries and keys by block index, filled by the first forward pass inside `capture`."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self._wanted = set(blocks)
        self._joint: dict[int, Callable[[], JointQK]] = {}

    @property
    def complete(self) -> bool:
        return self._wanted <= self._joint.keys()

    def keep(self, block: int, joint: Callable[[], JointQK]) -> None:
        """Keep the first record of a block: gradient checkpointing runs a block again during backward."""
        self._joint.setdefault(block, cache(joint))

    def __getitem__(self, block: int) -> JointQK:
        if block not in self._joint:
            raise UserError(f"block {block} recorded nothing: run the transformer inside `capture`, without skipping this block.")
        return self._joint[block]()


@contextmanager
def capture(backbone: Backbone, blocks: Sequence[int], *, stop: bool = False) -> Iterator[Record]:
    """Record blocks during one forward pass of `backbone.predict_velocity`.

    The recorded tensors are the host's own, after norms and rotary embedding, and part of its graph, so gradients reach LoRA on the
    query and key projections. Hooks are removed on exit, also after an exception.

    Args:
        backbone: the model.
        blocks: 0-based indices of joint-attention blocks.
        stop: leave the forward pass as soon as the last block is recorded: later blocks, and this block's own output, are not
            computed, `predict_velocity` does not return, and the rest of the `with` body is skipped.

    Yields:
        A `Record`; `record[block]` is a `JointQK`.

    Raises:
        UserError: a block does not exist.
    """
    record = Record(blocks)

    def keep(block: int, joint: Callable[[], JointQK]) -> None:
        record.keep(block, joint)
        if stop and record.complete:
            raise Reached

    with ExitStack() as stack:
        for site in backbone.select_sites(blocks):
            stack.enter_context(backbone.watch(site, lambda joint, block=site.index: keep(block, joint)))
        with suppress(Reached):
            yield record

"""Samplers whose order is a function of the seed alone, so that a resumed or re-distributed run sees the same samples."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Sampler


def sample_at(position: int, size: int, seed: int) -> int:
    """Index of the sample at `position` of an endless stream of shuffled passes over `size` samples."""
    epoch, offset = divmod(position, size)
    return int(_shuffled(size, seed * 1_000_003 + epoch)[offset])


@lru_cache(maxsize=2)
def _shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


class EndlessBatchSampler(Sampler[list[int]]):
    """Batches of one rank, numbered through the whole run; every pass starts at the batch that the run has reached.

    The global batch k is the same set of samples for every number of ranks that keeps `batch_size * world_size`.

    Args:
        size: number of samples of the data set.
        batch_size: samples per rank and batch.
        batches: batches of the whole run; also the length that progress bars show.
        start: called at the beginning of a pass; the first batch that it yields.
        seed: seed of the order.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self, *, size: int, batch_size: int, batches: int, start: Callable[[], int], seed: int, rank: int, world_size: int
    ) -> None:
        self._size, self._batch_size, self._batches, self._start = size, batch_size, batches, start
        self._seed, self._rank, self._world_size = seed, rank, world_size

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self._start(), self._batches):
            first = (batch * self._world_size + self._rank) * self._batch_size
            yield [sample_at(first + k, self._size, self._seed) for k in range(self._batch_size)]


class UnrepeatedSampler(Sampler[int]):
    """Every sample exactly once over all ranks, in order; ranks may differ by one sample.

    Lightning's own evaluation sampler pads with repeated samples, which would be counted twice.

    Args:
        size: number of samples of the data set.
        rank: this process.
        world_size: number of processes.
        start: samples of this process that are left out at the beginning, because they were seen before.
    """

    def __init__(self, *, size: int, rank: int, world_size: int, start: int = 0) -> None:
        self._indices = range(rank + start * world_size, size, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

"""The training order is a function of the seed; evaluation sees every sample once."""

from itertools import chain

import pytest

from seg4diff.data.sampler import EndlessBatchSampler, UnrepeatedSampler


def endless(start=0, **changes):
    arguments = {"size": 7, "batch_size": 4, "batches": 14, "start": lambda: start, "seed": 3, "rank": 0, "world_size": 1}
    return list(EndlessBatchSampler(**arguments | changes))


@pytest.mark.parametrize("start", [0, 1, 5, 14])
def test_a_resumed_sampler_continues_the_uninterrupted_one(start):
    assert endless(start=start) == endless()[start:]


def test_a_second_pass_goes_on_where_the_run_is():
    reached = iter([0, 5])
    sampler = EndlessBatchSampler(size=7, batch_size=4, batches=14, start=lambda: next(reached), seed=3, rank=0, world_size=1)
    assert [*list(sampler)[:5], *sampler] == endless()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_global_batches_of_one_process(ranks):
    parts = [endless(batch_size=4 // ranks, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert [[*chain(*batch)] for batch in zip(*parts, strict=True)] == endless()


@pytest.mark.parametrize("size", [1, 7, 8])
def test_every_pass_visits_every_index_once_in_a_new_order(size):
    stream = list(chain(*endless(size=size, batches=2 * size)))  # 8 passes
    passes = [stream[k : k + size] for k in range(0, len(stream), size)]
    assert len(passes) == 8
    for order in passes:
        assert sorted(order) == list(range(size))
    assert size == 1 or len({tuple(order) for order in passes}) > 6


def test_the_order_depends_on_the_seed_and_not_on_other_samplers_in_use():
    assert endless(seed=3) != endless(seed=4)
    arguments = {"size": 7, "batch_size": 3, "batches": 5, "start": lambda: 0, "rank": 0, "world_size": 1}
    first, second = (iter(EndlessBatchSampler(seed=seed, **arguments)) for seed in (3, 4))
    interleaved = list(zip(first, second, strict=True))
    assert [one for one, _ in interleaved] == endless(batch_size=3, batches=5)
    assert [two for _, two in interleaved] == endless(batch_size=3, batches=5, seed=4)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 11])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_evaluation_covers_every_sample_exactly_once(size, world_size):
    samplers = [UnrepeatedSampler(size=size, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(chain(*shares)) == list(range(size))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

from itertools import islice

import pytest

from cinelora.errors import FootageError
from cinelora.latents.dataset import BucketSampler

STILL, WIDE = (16, 1, 4, 6), (16, 1, 4, 12)
SHAPES = [STILL] * 7 + [WIDE] * 5


def batches(count: int, **options) -> list[list[int]]:
    options = {"batch_size": 2, "seed": 3, **options}
    return list(islice(BucketSampler(SHAPES, **options), count))


def test_every_batch_holds_one_shape():
    for batch in batches(50):
        assert len({SHAPES[i] for i in batch}) == 1


def test_an_epoch_shows_every_sample():
    sampler = BucketSampler(SHAPES, batch_size=2)
    assert sampler.steps_per_epoch == 4 + 3
    seen = {i for batch in islice(sampler, sampler.steps_per_epoch) for i in batch}
    assert seen == set(range(len(SHAPES)))


def test_epochs_differ_and_seeds_differ():
    assert batches(7) != batches(14)[7:]
    assert batches(7) != batches(7, seed=4)


def test_the_stream_can_be_entered_at_any_step():
    whole = batches(60, accumulation=2)
    for first_step in (1, 5, 17):
        assert batches(10, accumulation=2, first_step=first_step) == whole[2 * first_step :][:10]


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_a_step_sees_the_same_samples_however_they_are_shared_out(world_size: int, accumulation: int):
    group = 8
    one = batches(6, batch_size=group)
    shares = [
        batches(
            6 * accumulation,
            batch_size=group // (world_size * accumulation),
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for step, samples in enumerate(one):
        parts = [
            shares[rank][step * accumulation + micro] for micro in range(accumulation) for rank in range(world_size)
        ]
        assert [i for part in parts for i in part] == samples


def test_all_ranks_get_the_same_shape_at_every_step():
    ranks = [batches(40, rank=rank, world_size=3) for rank in range(3)]
    for parts in zip(*ranks, strict=True):
        assert len({SHAPES[i] for part in parts for i in part}) == 1


def test_fewer_samples_than_a_step_needs_are_repeated():
    assert sorted(next(iter(BucketSampler([STILL] * 2, batch_size=4)))) == [0, 0, 1, 1]


def test_nothing_to_train_on_is_said():
    with pytest.raises(FootageError, match=r"lower data\.holdout"):
        BucketSampler([], batch_size=1)

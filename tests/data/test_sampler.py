"""Which samples make up which batch: complete, the same set for any processes, resumable."""

from itertools import zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from timm.data.distributed_sampler import RepeatAugSampler

from vitfw.data.counter_rng import permutation, sample_keys, uniform64
from vitfw.data.sampler import EpochSampler, occurrences

LENGTHS = {
    "length": st.integers(1, 200),
    "batch_size": st.integers(1, 20),
    "world": st.integers(1, 5),
}


def weights_of(length: int) -> torch.Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(length))


# of training: plain, repeated, weighted, and both at once
VARIANTS = {
    "plain": {},
    "repeats": {"repeats": 3},
    "weights": {"weights": weights_of(96)},
    "both": {"repeats": 2, "weights": weights_of(96)},
}


def draws(sampler: EpochSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in sampler.batches()]


def flat(batches: list[list[int]]) -> list[int]:
    return [draw for batch in batches for draw in batch]


def of_ranks(length: int, batch_size: int, world: int, epoch: int = 0, **kwargs):
    """[rank][step][place] of an epoch in training."""
    return [
        draws(EpochSampler(length, batch_size, 0, True, rank, world, **kwargs), epoch)
        for rank in range(world)
    ]


# every sample, in any number of processes


@given(**LENGTHS, epoch=st.integers(0, 5), repeats=st.integers(1, 4))
def test_in_training_all_batches_are_full_ranks_agree_in_number_and_share_no_draw(
    length, batch_size, world, epoch, repeats
):
    given_to = []
    for rank in range(world):
        sampler = EpochSampler(length, batch_size, 0, True, rank, world, repeats)
        batches = draws(sampler, epoch)
        assert len(batches) == len(sampler) == length // (batch_size * world)
        assert all(len(batch) == batch_size for batch in batches)
        given_to += flat(batches)
    assert len(set(given_to)) == len(given_to)
    assert length - len(given_to) < batch_size * world  # no more is dropped than must be


@given(**LENGTHS, epoch=st.integers(0, 5))
def test_without_repeats_a_draw_is_an_index(length, batch_size, world, epoch):
    alone = flat(draws(EpochSampler(length, batch_size, 7, True), epoch))
    assert alone == permutation(7, epoch, length)[: len(alone)].tolist()


@given(**LENGTHS)
def test_evaluation_gives_every_sample_exactly_once_over_all_ranks(length, batch_size, world):
    given_to = []
    for rank in range(world):
        sampler = EpochSampler(length, batch_size, 0, False, rank, world)
        batches = draws(sampler)
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= batch_size for batch in batches)
        given_to += flat(batches)
    assert sorted(given_to) == list(range(length))


@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_take_turns_in_the_order_of_one_process(variant):
    kwargs = VARIANTS[variant]
    alone = flat(draws(EpochSampler(96, 4, 0, True, **kwargs)))
    ranks = [flat(batches) for batches in of_ranks(96, 4, 3, **kwargs)]
    assert [d for turn in zip_longest(*ranks) for d in turn] == alone


@pytest.mark.parametrize("variant", VARIANTS)
def test_1_2_and_4_processes_are_given_the_same_draws_at_each_step(variant):
    kwargs = VARIANTS[variant]
    steps = []
    for world in (1, 2, 4):
        ranks = of_ranks(96, 20 // world, world, epoch=2, **kwargs)
        steps.append([sorted(flat(step)) for step in zip(*ranks, strict=True)])
    assert steps[0] == steps[1] == steps[2]
    assert len(steps[0]) == 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_taken_up_at_any_batch_gives_the_rest(variant):
    whole = draws(EpochSampler(96, 10, 0, True, **VARIANTS[variant]), 3)
    assert len(whole) == 9
    for first in range(10):
        sampler = EpochSampler(96, 10, 0, True, **VARIANTS[variant])
        sampler.set_epoch(3)
        sampler.first_batch = first
        assert draws(sampler, 3) == whole[first:]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_epoch_and_seed_has_another_order_and_the_same_order_again(variant):
    sampler = EpochSampler(96, 8, 0, True, **VARIANTS[variant])
    orders = [draws(sampler, epoch) for epoch in (0, 1, 0)]
    other_seed = draws(EpochSampler(96, 8, 1, True, **VARIANTS[variant]))
    assert orders[0] == orders[2] != orders[1]
    assert other_seed != orders[0]


# repeated augmentation


@given(**LENGTHS, repeats=st.integers(2, 5))
def test_every_sample_that_is_drawn_comes_so_many_times_as_different_draws(
    length, batch_size, world, repeats
):
    given_to = [d for rank in of_ranks(length, batch_size, world, repeats=repeats) for d in rank]
    samples = torch.tensor(flat(given_to), dtype=torch.int64)
    _, counts = (samples % length).unique(return_counts=True)
    total = length // (batch_size * world) * batch_size * world
    expected = [repeats] * (total // repeats) + [total % repeats] * (total % repeats > 0)
    assert sorted(counts.tolist(), reverse=True) == expected
    copies = samples // length
    assert all(0 <= c < repeats for c in copies.tolist())
    assert len(samples.unique()) == len(samples)


@pytest.mark.parametrize(("repeats", "world"), [(3, 3), (2, 4), (3, 4), (4, 2)])
def test_copies_go_to_different_processes_as_far_as_there_are(repeats, world):
    ranks = of_ranks(1200, 12, world, repeats=repeats)
    seen_by: dict[int, list[int]] = {}
    for rank, batches in enumerate(ranks):
        for draw in flat(batches):
            seen_by.setdefault(draw % 1200, []).append(rank)
    assert all(len(ranks) == repeats for ranks in seen_by.values())
    assert all(len(set(ranks)) == min(repeats, world) for ranks in seen_by.values())


def test_in_one_process_copies_are_in_the_same_batch_where_they_divide_it():
    for batch in draws(EpochSampler(1000, 12, 0, True, repeats=3)):
        assert sorted(d % 1000 for d in batch)[::3] == sorted({d % 1000 for d in batch})
        assert len({d % 1000 for d in batch}) == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_repeats_are_dealt_to_processes_as_by_timms_sampler(rank):
    # timm's, unshuffled, gives places in the order; ours is shuffled by a permutation
    theirs = list(RepeatAugSampler(range(512), 2, rank, shuffle=False, num_repeats=3))
    ours = flat(draws(EpochSampler(512, 16, 5, True, rank, 2, repeats=3)))
    assert [d % 512 for d in ours] == permutation(5, 0, 512)[theirs].tolist()


def test_every_epoch_sees_another_random_part():
    seen = [
        {d % 300 for d in flat(draws(EpochSampler(300, 10, 0, True, repeats=3), epoch))}
        for epoch in range(40)
    ]
    assert all(len(part) == 100 for part in seen)
    times = np.bincount([i for part in seen for i in part], minlength=300)
    # binomial(40, 1/3) has a deviation of 3
    assert times.min() > 40 / 3 - 5 * 3
    assert times.max() < 40 / 3 + 5 * 3


# weighted sampling


def test_samples_are_drawn_as_often_as_their_weights_say():
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.0, 0.5, 0.0]).repeat(10)
    sampler = EpochSampler(70, 70, 0, True, weights=weights)
    given_to = [d % 70 for epoch in range(300) for d in flat(draws(sampler, epoch))]
    times = np.bincount(given_to, minlength=70)
    assert not times[weights.numpy() == 0].any()
    drawn = times[weights.numpy() > 0]
    expected = weights[weights > 0].numpy()
    expected = expected / expected.sum() * drawn.sum()
    assert stats.chisquare(drawn, expected).pvalue > 1e-4


def test_places_of_an_epoch_are_drawn_independently():
    sampler = EpochSampler(2000, 2000, 0, True, weights=torch.ones(2000))
    sequence = np.array([d % 2000 for epoch in range(5) for d in flat(draws(sampler, epoch))])
    assert abs(np.corrcoef(sequence[1:], sequence[:-1])[0, 1]) < 5 / np.sqrt(len(sequence))
    distinct = len(set(sequence[:2000].tolist()))
    assert abs(distinct / 2000 - (1 - np.exp(-1))) < 0.05  # as with replacement


def test_a_sample_drawn_again_is_another_draw_with_another_key():
    weights = torch.full((100,), 1e-3)
    weights[7] = 1.0
    epoch = torch.tensor(flat(draws(EpochSampler(100, 10, 0, True, weights=weights))))
    copies = epoch[epoch % 100 == 7] // 100
    assert len(copies) > 50
    assert copies.tolist() == list(range(len(copies)))
    assert len(sample_keys(0, 0, epoch).unique()) == 100


def test_weights_and_repeats_together_repeat_what_was_drawn():
    kwargs = VARIANTS["both"]
    samples = [d % 96 for d in flat(draws(EpochSampler(96, 8, 0, True, **kwargs)))]
    assert samples[::2] == samples[1::2]
    single = [d % 96 for d in flat(draws(EpochSampler(96, 8, 0, True, weights=weights_of(96))))]
    assert samples[::2] == single[:48]


def test_the_scale_of_the_weights_does_not_matter():
    one, other = (
        draws(EpochSampler(96, 8, 0, True, weights=weights_of(96) * scale)) for scale in (1, 1024)
    )
    assert one == other


def test_53_bits_are_uniform_and_reach_where_24_do_not():
    values = uniform64(sample_keys(0, 0, torch.arange(200_000)), 200)
    assert values.dtype == torch.float64
    assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-4
    low_bits = (values * 2.0**53).long() & ((1 << 29) - 1)  # those that a float32 would lose
    assert stats.kstest((low_bits.double() / 2.0**29).numpy(), "uniform").pvalue > 1e-4


@given(st.lists(st.integers(0, 5), max_size=40))
def test_occurrences_count_what_came_before(samples):
    expected = [samples[:i].count(sample) for i, sample in enumerate(samples)]
    assert occurrences(torch.tensor(samples, dtype=torch.int64)).tolist() == expected


# what cannot be asked


@pytest.mark.parametrize("kwargs", [{"repeats": 2}, {"weights": torch.ones(10)}])
def test_evaluation_takes_neither_repeats_nor_weights(kwargs):
    with pytest.raises(ValueError, match="neither repeats nor weights"):
        EpochSampler(10, 2, 0, False, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"repeats": 0}, "repeats=0 must be at least 1"),
        ({"weights": torch.ones(9)}, r"weights of shape \[9\] for 10 samples"),
        ({"weights": torch.zeros(10)}, "not all 0"),
        ({"weights": torch.tensor([-1.0] + [1.0] * 9)}, "not negative"),
        ({"weights": torch.tensor([torch.nan] * 10)}, "finite"),
        ({"weights": torch.tensor([torch.inf] * 10)}, "finite"),
    ],
)
def test_wrong_repeats_and_weights_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(10, 2, 0, True, **kwargs)

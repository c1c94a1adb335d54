"""Counter-based random numbers against SplitMix64 in numpy's uint64, and against statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitfw.data.counter_rng import _mix, permutation, randint, sample_keys, uniform

SEEDS = st.integers(-(2**63), 2**64 - 1)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def finalise(z: np.ndarray) -> np.ndarray:
    """`mix64variant13` of SplittableRandom, as in Vigna's splitmix64.c: uint64 → uint64."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def as_int64(z: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(z.view(np.int64).copy())


def many_keys(count: int = 200_000, seed: int = 0, epoch: int = 0) -> torch.Tensor:
    return sample_keys(seed, epoch, torch.arange(count))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_the_mixer_is_splitmix64s_for_every_64_bit_pattern(words):
    z = np.array(words, dtype=np.uint64)
    assert torch.equal(_mix(as_int64(z)), as_int64(finalise(z)))


def test_the_mixer_gives_the_published_first_outputs_of_seed_1234567():
    # The reference values of splitmix64.c for this seed, as listed on Rosetta Code.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * GOLDEN
    assert _mix(as_int64(states)).numpy().view(np.uint64).tolist() == published


@given(seed=SEEDS, epoch=st.integers(0, 2**31), index=st.integers(0, 2**40))
def test_a_key_is_the_chain_seed_epoch_index_in_unsigned_arithmetic(seed, epoch, index):
    with np.errstate(over="ignore"):
        stream = finalise(np.array([seed % 2**64], dtype=np.uint64) * GOLDEN)
        stream = finalise((stream ^ np.uint64(epoch)) + GOLDEN)
        expected = finalise(stream + np.uint64(index + 1) * GOLDEN)
    assert torch.equal(sample_keys(seed, epoch, torch.tensor([index])), as_int64(expected))


@given(key=st.integers(-(2**63), 2**63 - 1), draw=st.integers(0, 50))
def test_a_uniform_number_is_the_24_highest_bits_of_the_key_s_draw(key, draw):
    with np.errstate(over="ignore"):
        state = np.array([key], dtype=np.int64).view(np.uint64) + np.uint64(draw + 1) * GOLDEN
    expected = (finalise(state) >> np.uint64(40)).astype(np.float64) / 2**24
    value = uniform(torch.tensor([key]), draw)
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    assert 0.0 <= value.item() < 1.0


@pytest.mark.parametrize("draw", [0, 1, 11])
def test_uniform_numbers_are_uniform(draw):
    values = uniform(many_keys(), draw).numpy()
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    counts = np.histogram(values, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: uniform(many_keys(), 1), id="another draw"),
        pytest.param(lambda: uniform(many_keys(epoch=1), 0), id="the next epoch"),
        pytest.param(lambda: uniform(many_keys(seed=1), 0), id="the next seed"),
        pytest.param(lambda: uniform(many_keys(), 0).roll(1), id="the next sample"),
    ],
)
def test_a_number_says_nothing_about_those_beside_it(other):
    grid = np.histogram2d(uniform(many_keys(), 0).numpy(), other().numpy(), bins=16)[0]
    assert stats.chi2_contingency(grid).pvalue > 1e-3


@pytest.mark.parametrize("high", [1, 2, 3, 9, 1000])
def test_randint_gives_every_value_below_high_equally_often(high):
    values = randint(many_keys(), 3, high)
    counts = torch.bincount(values, minlength=high)
    assert values.dtype == torch.int64
    assert len(counts) == high
    if high > 1:
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@given(
    index=st.lists(st.integers(0, 10**6), min_size=1, max_size=30),
    seed=SEEDS,
    epoch=st.integers(0, 1000),
)
def test_a_key_does_not_depend_on_what_else_is_in_the_batch(index, seed, epoch):
    together = sample_keys(seed, epoch, torch.tensor(index))
    alone = [sample_keys(seed, epoch, torch.tensor([i])) for i in index]
    assert torch.equal(together, torch.cat(alone))


def test_no_two_samples_of_many_epochs_and_seeds_share_a_key():
    keys = torch.cat([many_keys(5_000, s, e) for s in range(10) for e in range(10)])
    assert len(keys.unique()) == len(keys)


def test_seed_and_epoch_are_not_interchangeable():
    assert not torch.equal(many_keys(10, seed=1, epoch=2), many_keys(10, seed=2, epoch=1))


@settings(max_examples=50)
@given(seed=SEEDS, epoch=st.integers(0, 1000), length=st.integers(0, 300))
def test_a_permutation_is_one(seed, epoch, length):
    assert torch.equal(permutation(seed, epoch, length).sort().values, torch.arange(length))


def test_the_order_of_an_epoch_does_not_depend_on_what_was_drawn_before():
    first = permutation(0, 3, 1000)
    torch.rand(7)
    permutation(0, 2, 1000)
    uniform(many_keys(10), 0)
    assert torch.equal(permutation(0, 3, 1000), first)


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [permutation(seed, epoch, 100) for seed in range(5) for epoch in range(5)]
    assert len(torch.stack(orders).unique(dim=0)) == 25


def test_every_place_of_a_shuffled_epoch_is_equally_likely():
    places = torch.stack([permutation(0, epoch, 10).argsort() for epoch in range(5_000)])
    counts = torch.stack([torch.bincount(places[:, i], minlength=10) for i in range(10)])
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1, -(2**63)])
def test_seeds_of_any_64_bit_pattern_shuffle(seed):
    order = permutation(seed, 0, 50)
    assert not torch.equal(order, torch.arange(50))
    assert not torch.equal(order, permutation(0, 0, 50))

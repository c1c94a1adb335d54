"""A stratified split, by counting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from vitfw.data.splits import stratified_split
from vitfw.errors import ConfigError

SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=8)
SHARES = st.floats(0.01, 0.99)


def shuffled_labels(sizes: list[int]) -> torch.Tensor:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@given(sizes=SIZES, share=SHARES, seed=st.integers(-5, 2**63))
def test_kept_and_held_out_are_disjoint_sorted_and_complete(sizes, share, seed):
    labels = shuffled_labels(sizes)
    kept, held_out = stratified_split(labels, share, seed)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(len(labels)))
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held_out, held_out.sort().values)


@given(sizes=SIZES, share=SHARES)
def test_every_class_gives_its_share_and_keeps_one_image(sizes, share):
    labels = shuffled_labels(sizes)
    kept, held_out = stratified_split(labels, share, 0)
    given_up = torch.bincount(labels[held_out], minlength=len(sizes)).tolist()
    remaining = torch.bincount(labels[kept], minlength=len(sizes)).tolist()
    for size, count, rest in zip(sizes, given_up, remaining, strict=True):
        assert rest >= 1
        assert count >= 1
        assert abs(count - share * size) <= 0.5 or count == 1 or rest == 1


def test_classes_are_held_out_in_scikit_learns_proportions():
    labels = shuffled_labels([100, 300, 50])
    _, held_out = stratified_split(labels, 0.1, 0)
    _, theirs = train_test_split(labels.numpy(), test_size=0.1, stratify=labels.numpy())
    ours = torch.bincount(labels[held_out])
    assert torch.equal(ours, torch.bincount(torch.from_numpy(theirs)))


def test_the_same_seed_gives_the_same_split_whatever_was_drawn_before():
    labels = shuffled_labels([50, 50])
    first = stratified_split(labels, 0.2, 7)
    torch.rand(11)
    second = stratified_split(labels, 0.2, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_seed_gives_another_split():
    labels = shuffled_labels([50, 50])
    splits = torch.stack([stratified_split(labels, 0.2, seed)[1] for seed in range(10)])
    assert len(splits.unique(dim=0)) == 10


def test_every_image_is_held_out_equally_often_over_many_seeds():
    labels = shuffled_labels([10, 10])
    times = torch.zeros(20)
    for seed in range(1000):
        times[stratified_split(labels, 0.3, seed)[1]] += 1
    # binomial(1000, 0.3) has a deviation of 14.5; 5 of them either way
    assert times.sub(300).abs().max() < 5 * 14.5


def test_labels_need_not_count_from_zero():
    labels = torch.tensor([7, 7, 7, 7, 42, 42, 42, 42])
    _, held_out = stratified_split(labels, 0.25, 0)
    assert labels[held_out].tolist().count(7) == labels[held_out].tolist().count(42) == 1


def test_share_0_keeps_everything_even_a_class_of_one_image():
    kept, held_out = stratified_split(torch.tensor([0, 1, 1]), 0.0, 0)
    assert kept.tolist() == [0, 1, 2]
    assert len(held_out) == 0
    assert held_out.dtype == torch.int64


def test_a_class_of_one_image_is_refused_and_the_way_out_named():
    with pytest.raises(ConfigError, match=r"class 3 has one training image.*data\.val_share=0"):
        stratified_split(torch.tensor([0, 0, 3]), 0.1, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ConfigError, match=r"data\.val_share.*must lie in \[0, 1\)"):
        stratified_split(torch.tensor([0, 0]), share, 0)

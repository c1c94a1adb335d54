"""Class weights against scikit-learn and the papers' formulae."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from vitfw.data.class_balance import class_counts, loss_weights, sampling_weights
from vitfw.errors import ConfigError

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=8)


def labels_of(sizes: list[int]) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@given(sizes=SIZES)
def test_balanced_loss_weights_are_scikit_learns(sizes):
    labels = labels_of(sizes)
    theirs = compute_class_weight("balanced", classes=np.arange(len(sizes)), y=labels.numpy())
    ours = loss_weights(labels, len(sizes), "balanced")
    assert ours.dtype == torch.float32
    assert np.allclose(ours.numpy(), theirs, rtol=1e-6)


@given(sizes=SIZES)
def test_balanced_sampling_weights_are_scikit_learns(sizes):
    labels = labels_of(sizes)
    ours = sampling_weights(labels, len(sizes), "balanced")
    assert ours.dtype == torch.float64
    assert np.allclose(ours.numpy(), compute_sample_weight("balanced", labels.numpy()), rtol=1e-12)


def test_effective_weights_are_those_of_cui_et_al():
    # The published code: weights = (1 − β) / (1 − β^n), scaled to a sum of K.
    sizes = [5000, 500, 50, 1]
    weights = (1.0 - 0.9999) / (1.0 - np.power(0.9999, sizes))
    published = weights / weights.sum() * len(sizes)
    ours = loss_weights(labels_of(sizes), 4, "effective").double()
    assert np.allclose((ours / ours.mean()).numpy(), published, rtol=1e-5)


@pytest.mark.parametrize("weigh", [loss_weights, sampling_weights])
def test_square_root_weights_of_sizes_100_and_25_are_as_1_to_2(weigh):
    weights = weigh(labels_of([100, 25]), 2, "sqrt").unique().tolist()
    assert weights[1] / weights[0] == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["balanced", "sqrt", "effective"])
@given(sizes=SIZES)
def test_loss_weights_have_a_mean_of_1_over_the_images(how, sizes):
    labels = labels_of(sizes)
    mean = loss_weights(labels, len(sizes), how)[labels].double().mean()
    assert mean.item() == pytest.approx(1.0, rel=1e-6)


def test_square_root_sampling_draws_classes_by_the_root_of_their_size():
    labels = labels_of([100, 25, 4])
    weights = sampling_weights(labels, 3, "sqrt")
    drawn = torch.zeros(3, dtype=torch.float64).scatter_add_(0, labels, weights)
    assert (drawn / drawn[2]).tolist() == pytest.approx([5.0, 2.5, 1.0])
    assert weights.mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["balanced", "sqrt", "effective"])
def test_a_class_without_images_weighs_nothing_and_changes_no_other(how):
    labels = labels_of([30, 10])
    with_gap = labels * 2  # classes 0 and 2 of 4
    expected = loss_weights(labels, 2, how)
    ours = loss_weights(with_gap, 4, how)
    assert ours.tolist() == [expected[0].item(), 0.0, expected[1].item(), 0.0]


def test_counts_are_of_all_classes_in_order():
    assert class_counts(torch.tensor([2, 0, 2, 2]), 5).tolist() == [1, 0, 3, 0, 0]


@pytest.mark.parametrize(
    ("weigh", "how", "message"),
    [
        (loss_weights, "balance", r"data\.class_weights=balance is unknown; use balanced or sqrt"),
        (sampling_weights, "effective", r"data\.sampling=effective is unknown"),
        (sampling_weights, None, r"data\.sampling=None is unknown; use .* or null"),
    ],
)
def test_an_unknown_way_is_refused_and_the_known_named(weigh, how, message):
    with pytest.raises(ConfigError, match=message):
        weigh(torch.tensor([0, 1]), 2, how)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(ConfigError, match=r"the training images: image 1 has the label 2"):
        class_counts(torch.tensor([0, 2]), 2)

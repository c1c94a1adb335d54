"""Learning rates for other batch sizes, against the figures of the papers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitfw.errors import ConfigError
from vitfw.training.lr_scaling import scaled_lr


def test_goyals_batch_of_8k_gets_32_times_the_rate_of_256():
    assert scaled_lr(0.1, "linear", 8192, 256) == pytest.approx(3.2)


def test_deits_rate_for_batches_of_1024_is_1e_3():
    """DeiT writes it as 5e-4 · batch / 512."""
    assert scaled_lr(5e-4, "linear", 1024, 512) == pytest.approx(1e-3)


@pytest.mark.parametrize("batch_size, lr", [(512, 6.25e-4), (2048, 1.25e-3), (32_768, 5e-3)])
def test_lambs_rates_for_bert_grow_by_the_square_root(batch_size, lr):
    """You et al. 2020, the table of untuned LAMB: 5 / (2^3 · 10^3) at 512, 5 / 10^3 at 32K."""
    assert scaled_lr(6.25e-4, "sqrt", batch_size, 512) == pytest.approx(lr)


def test_sqrt_keeps_the_variance_of_an_sgd_step():
    """lr · mean of B gradients of variance 1 has variance lr² / B (Krizhevsky 2014)."""
    gradients = torch.randn(200_000, 32, dtype=torch.float64)
    small = 0.1 * gradients[:, :8].mean(dim=1)
    large = scaled_lr(0.1, "sqrt", 32, 8) * gradients.mean(dim=1)
    assert large.var().item() == pytest.approx(small.var().item(), rel=0.02)


@given(st.floats(1e-6, 10), st.integers(1, 10**6), st.integers(1, 10**6))
def test_none_leaves_the_rate_alone(lr, batch_size, reference):
    assert scaled_lr(lr, "none", batch_size, reference) == lr


@given(st.sampled_from(["linear", "sqrt"]), st.integers(1, 4096), st.integers(1, 4096))
def test_there_and_back_is_where_it_began(rule, batch_size, reference):
    there = scaled_lr(1e-3, rule, batch_size, reference)
    assert scaled_lr(there, rule, reference, batch_size) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "rule, batch_size, reference, said",
    [
        ("root", 128, 256, "lr_scaling=root does not exist; known: none, linear, sqrt"),
        ("liner", 128, 256, "did you mean linear?"),
        (None, 128, 256, "lr_scaling=None does not exist"),
        ("sqrt", 128, 0, "lr_batch_size=0 is a number of images"),
        ("none", 0, 256, "data.batch_size=0 is a number of images"),
    ],
)
def test_what_cannot_be_scaled_is_told(rule, batch_size, reference, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        scaled_lr(1e-3, rule, batch_size, reference)

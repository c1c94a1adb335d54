"""Mean and deviation of training pixels, against numpy in doubles and published figures."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitfw.data.statistics import statistics_of
from vitfw.errors import ConfigError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
PUBLISHED_FASHION_MNIST = 0.2860, 0.3530


def random_images(count: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    brightest = torch.tensor([255, 90, 17])[:channels, None, None]
    return (torch.rand(count, channels, 7, 5, generator=generator) * brightest).to(torch.uint8)


def test_mean_and_std_equal_numpy_in_double_precision():
    images = random_images(50)
    mean, std = statistics_of(images.split(16))
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


@given(st.integers(1, 20))
def test_how_images_are_cut_into_batches_changes_no_bit(batch_size: int):
    images = random_images(20)
    assert statistics_of(images.split(batch_size)) == statistics_of([images])


def test_a_small_deviation_on_a_bright_image_is_exact():
    """E[x²] − E[x]² in floats would lose it: one pixel of a million is darker by one."""
    image = torch.full((1, 1, 1000, 1000), 255, dtype=torch.uint8)
    image[0, 0, 0, 0] = 254
    (mean,), (std,) = statistics_of([image])
    share = 1e-6
    assert mean == pytest.approx(1 - share / 255, rel=1e-15)
    assert std == pytest.approx((share * (1 - share)) ** 0.5 / 255, rel=1e-12)


def test_a_constant_channel_is_divided_by_one():
    images = random_images(4)
    images[:, 1] = 51
    mean, std = statistics_of([images])
    assert mean[1] == pytest.approx(0.2)
    assert std[1] == 1.0


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3, 4, 4, dtype=torch.uint8)]], ids=len)
def test_no_images_is_an_error_that_says_so(batches):
    with pytest.raises(ConfigError, match="no training images"):
        statistics_of(batches)


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="needs package dataset-fashion-mnist")
def test_fashion_mnist_has_its_published_statistics():
    with gzip.open(FASHION_MNIST) as source:
        pixels = np.frombuffer(source.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    assert len(pixels) == 60_000
    (mean,), (std,) = statistics_of(torch.tensor(pixels).split(4096))
    assert (round(mean, 4), round(std, 4)) == PUBLISHED_FASHION_MNIST

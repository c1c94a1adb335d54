"""The catalogue's facts against those who publish them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets

from vitfw.data.arrays import READERS, read_digits
from vitfw.data.catalog import CATALOG, facts_of, needing_no_download
from vitfw.errors import ConfigError


def test_fashion_mnists_classes_are_torchvisions():
    assert CATALOG["fashion_mnist"].classes == tuple(datasets.FashionMNIST.classes)


def test_mnists_classes_are_torchvisions_without_the_spelled_out_number():
    expected = tuple(name.split(" - ")[0] for name in datasets.MNIST.classes)
    assert CATALOG["mnist"].classes == expected


def test_digits_classes_are_scikit_learns():
    expected = tuple(str(name) for name in load_digits().target_names)
    assert CATALOG["digits"].classes == expected


@pytest.mark.parametrize("name, count", [("cifar10", 10), ("cifar100", 100)])
def test_cifar_has_as_many_classes_as_its_name_says_in_the_order_of_its_label_file(name, count):
    classes = CATALOG[name].classes
    assert len(set(classes)) == len(classes) == count
    assert list(classes) == sorted(classes)  # both label files are alphabetical


@pytest.mark.parametrize("name", CATALOG)
def test_mean_and_deviation_have_one_value_a_channel_within_0_and_1(name):
    facts = CATALOG[name]
    assert len(facts.mean) == len(facts.std) == facts.channels
    assert all(0 < value < 1 for value in facts.mean + facts.std)


@pytest.mark.parametrize("name", CATALOG)
def test_the_usual_augmentation_is_within_its_bounds(name):
    facts = CATALOG[name]
    assert 0 <= facts.hflip <= 1
    assert 0 <= facts.shift < facts.native_size / 4


def test_no_set_of_digits_is_mirrored():
    assert CATALOG["mnist"].hflip == CATALOG["digits"].hflip == 0.0


def test_mean_and_deviation_of_digits_are_those_of_its_training_images(tmp_path):
    facts = CATALOG["digits"]
    pixels = read_digits(tmp_path, True, False).images.numpy().astype(np.float64) / 255
    assert facts.mean == (round(pixels.mean(), 4),)
    assert facts.std == (round(pixels.std(), 4),)


def test_counts_of_digits_add_up_to_scikit_learns():
    facts = CATALOG["digits"]
    assert facts.train_images + facts.test_images == len(load_digits().target) == 1797
    assert facts.native_size == load_digits().images.shape[1]


def test_only_sets_with_a_reader_or_made_from_nothing_are_listed():
    assert set(CATALOG) == set(READERS) | {"image_folder", "fake"}


def test_sets_that_need_no_download_are_the_embedded_the_users_and_the_made_up():
    assert sorted(needing_no_download()) == ["digits", "fake", "image_folder"]


@pytest.mark.parametrize(
    "typed, meant", [("cifar-10", "cifar10"), ("mnits", "mnist"), ("fashionmnist", "fashion_mnist")]
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError, match=f"'{typed}'; did you mean .*{meant}.*\\? known: digits"):
        facts_of(typed)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ConfigError, match="'xyz'; known: digits, mnist, fashion_mnist"):
        facts_of("xyz")

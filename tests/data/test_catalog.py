"""Every data set that can be named: its facts, its config, and what is said to a wrong name."""

from pathlib import Path

import data_table
import pytest
import yaml

from vitfw.data.catalog import CATALOG, DATASETS, FAMILIES, YOURS, facts_of
from vitfw.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
FILES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("_"))
# torchvision's classification data sets, https://docs.pytorch.org/vision/stable/datasets.html;
# FakeData is `fake`, SBU has captions and no classes.
TORCHVISIONS = (
    "caltech101 caltech256 celeba cifar10 cifar100 country211 dtd emnist_balanced emnist_byclass "
    "emnist_bymerge emnist_digits emnist_letters emnist_mnist eurosat fashion_mnist fer2013 "
    "fgvc_aircraft flowers102 food101 gtsrb imagenet imagenette inaturalist_2017 inaturalist_2018 "
    "inaturalist_2019 inaturalist_2021 inaturalist_2021_mini kmnist lfw mnist omniglot oxford_pets "
    "pcam places365 qmnist rendered_sst2 semeion stanford_cars stl10 sun397 svhn usps clevr"
).split()


def test_no_set_of_torchvisions_is_missing():
    assert set(TORCHVISIONS) <= set(CATALOG)


def test_every_set_has_a_config_and_every_config_a_set():
    assert sorted(CATALOG) == FILES


@pytest.mark.parametrize("name", [name for name in FILES if name != "stream"])  # a pack's own
def test_a_config_names_the_set_it_is_called_after(name):
    assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["name"] == name


def test_no_two_families_have_a_set_of_the_same_name():
    names = [name for family in FAMILIES for name in family.SETS]
    assert len(set(names)) == len(names) == len(DATASETS)
    assert not set(names) & set(YOURS)


@pytest.mark.parametrize("name", CATALOG)
def test_mean_and_deviation_have_one_value_a_channel_within_0_and_1(name):
    facts = CATALOG[name]
    assert facts.channels in (1, 3)
    assert len(facts.mean) == len(facts.std) == facts.channels
    assert all(0 < value < 1 for value in facts.mean + facts.std)


@pytest.mark.parametrize("name", CATALOG)
def test_the_usual_augmentation_is_within_its_bounds(name):
    facts = CATALOG[name]
    assert 0 <= facts.hflip <= 1
    assert 0 <= facts.shift < facts.native_size / 4


@pytest.mark.parametrize("name", DATASETS)
def test_names_of_classes_are_as_many_as_there_are_classes_and_all_different(name):
    facts = CATALOG[name]
    assert facts.num_classes >= 2
    if facts.classes:
        assert len(set(facts.classes)) == len(facts.classes) == facts.num_classes
        assert all(one.strip() == one != "" for one in facts.classes)


@pytest.mark.parametrize("name", DATASETS)
def test_splits_are_training_validation_and_test_with_an_image_of_each_class_in_training(name):
    splits = CATALOG[name].splits
    assert "train" in splits
    assert set(splits) <= {"train", "val", "test"}
    assert splits["train"] >= CATALOG[name].num_classes
    assert all(count > 0 for count in splits.values())


@pytest.mark.parametrize("name", CATALOG)
def test_every_set_has_a_title_a_licence_and_a_source(name):
    facts = CATALOG[name]
    for text in (facts.title, facts.licence, facts.source, facts.statistics):
        assert text.strip() == text != ""
        assert "\n" not in text
    assert facts.download_mb >= 0


def test_titles_tell_sets_apart():
    titles = [facts.title for facts in CATALOG.values()]
    assert len(set(titles)) == len(titles)


def test_sets_of_ones_own_promise_neither_classes_nor_splits():
    for facts in YOURS.values():
        assert facts.num_classes == 0
        assert not facts.splits
        assert facts.download_mb == 0


@pytest.mark.parametrize(
    "typed, meant", [("cifar-10", "cifar10"), ("mnits", "mnist"), ("fashionmnist", "fashion_mnist")]
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError, match=f"'{typed}'; did you mean .*{meant}.*\\?"):
        facts_of(typed)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ConfigError, match="'xyz0'; known: ") as caught:
        facts_of("xyz0")
    assert all(name in str(caught.value) for name in CATALOG)


def test_the_page_of_data_sets_is_what_the_catalogue_says():
    assert data_table.PAGE.read_text(encoding="utf-8") == data_table.page(), (
        "run scripts/data_table.py"
    )

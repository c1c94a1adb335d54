"""Chosen classes, splits, limits and folds, by counting and against scikit-learn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, train_test_split

from vitfw.data.images import ArrayImages, FileImages, Split
from vitfw.data.splits import (
    check_labels,
    class_numbers,
    keep_classes,
    stratified_fold,
    stratified_limit,
    stratified_split,
)
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


# a smaller set


def class_sizes(labels: torch.Tensor, index: torch.Tensor, classes: int) -> list[int]:
    return torch.bincount(labels[index], minlength=classes).tolist()


@given(sizes=SIZES, share=st.floats(0.001, 1.0), seed=st.integers(-5, 2**63))
def test_a_share_keeps_the_proportions_of_the_classes_and_an_image_of_each(sizes, share, seed):
    labels = shuffled_labels(sizes)
    index = stratified_limit(labels, share, seed)
    assert torch.equal(index, index.unique())  # sorted, none twice
    assert len(index) == max(round(share * len(labels)), len(sizes))
    kept = class_sizes(labels, index, len(sizes))
    assert min(kept) >= 1
    if min(sizes) * share >= 1:  # no class had to be lifted to one image
        assert all(abs(n - share * size) <= 1.5 for n, size in zip(kept, sizes, strict=True))


@given(sizes=SIZES, data=st.data())
def test_a_number_of_images_is_met_exactly(sizes, data):
    labels = shuffled_labels(sizes)
    limit = data.draw(st.integers(len(sizes), len(labels)))
    index = stratified_limit(labels, limit, 0)
    assert len(index) == limit
    assert min(class_sizes(labels, index, len(sizes))) >= 1


def test_a_limit_of_even_proportions_is_met_to_the_image():
    labels = shuffled_labels([100, 300, 50])
    assert class_sizes(labels, stratified_limit(labels, 0.1, 0), 3) == [10, 30, 5]
    assert class_sizes(labels, stratified_limit(labels, 90, 0), 3) == [20, 60, 10]


def test_small_classes_keep_their_one_image_at_the_cost_of_large_ones():
    labels = shuffled_labels([1000, 2, 1])
    assert class_sizes(labels, stratified_limit(labels, 10, 0), 3) == [8, 1, 1]


@given(sizes=SIZES, shares=st.tuples(SHARES, SHARES))
def test_a_smaller_limit_chooses_among_what_a_larger_one_chose(sizes, shares):
    labels = shuffled_labels(sizes)
    small, large = (set(stratified_limit(labels, s, 3).tolist()) for s in sorted(shares))
    assert small <= large


@pytest.mark.parametrize("limit", [1.0, 4])
def test_a_limit_of_everything_keeps_everything(limit):
    assert stratified_limit(torch.tensor([0, 5, 5, 0]), limit, 0).tolist() == [0, 1, 2, 3]


def test_a_limit_chooses_every_image_equally_often_and_by_the_seed_alone():
    labels = shuffled_labels([10, 10])
    times = torch.zeros(20)
    for seed in range(1000):
        index = stratified_limit(labels, 0.3, seed)
        torch.rand(3)
        assert torch.equal(index, stratified_limit(labels, 0.3, seed))
        times[index] += 1
    assert times.sub(300).abs().max() < 5 * 14.5


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0.0, r"data\.limit=0\.0 is a share .* more than 0 and at most 1\.0"),
        (1.5, r"data\.limit=1\.5 is a share .* write a whole number"),
        (float("nan"), r"data\.limit=nan is a share"),
        (1, r"data\.limit=1 is a number of images: at least one for each of the 2 .* 1\.0 for all"),
        (5, r"data\.limit=5 is a number of images: .* at most all 4"),
        (True, r"data\.limit=True is a number"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_what_can(limit, message):
    with pytest.raises(ConfigError, match=message):
        stratified_limit(torch.tensor([0, 1, 1, 0]), limit, 0)


# folds


@pytest.mark.filterwarnings("ignore:The least populated class")
@given(sizes=SIZES, folds=st.integers(2, 6), seed=st.integers(-5, 2**63))
def test_folds_partition_the_set_with_scikit_learns_sizes_of_every_class(sizes, folds, seed):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([*sizes, 12])])
    theirs = StratifiedKFold(folds).split(labels, labels)
    held_out = []
    for fold, (_, expected) in enumerate(theirs):
        train, val = stratified_fold(labels, fold, folds, seed)
        assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))
        assert torch.equal(train, train.sort().values)
        assert torch.equal(val, val.sort().values)
        classes = len(sizes) + 1
        expected_sizes = class_sizes(labels, torch.from_numpy(expected), classes)
        assert class_sizes(labels, val, classes) == expected_sizes
        held_out.append(val)
    assert torch.equal(torch.cat(held_out).sort().values, torch.arange(len(labels)))


@given(sizes=SIZES, folds=st.integers(2, 6))
def test_folds_differ_by_one_image_at_most_and_each_class_can_be_trained_on(sizes, folds):
    labels = shuffled_labels([*sizes, 6])
    parts = [stratified_fold(labels, fold, folds, 0) for fold in range(folds)]
    by_class = torch.stack([torch.bincount(labels[val], minlength=99) for _, val in parts])
    assert (by_class.amax(0) - by_class.amin(0)).max() <= 1
    assert by_class.sum(1).max() - by_class.sum(1).min() <= 1
    assert all(len(labels[train].unique()) == len(labels.unique()) for train, _ in parts)


def test_folds_follow_the_seed_and_nothing_else():
    labels = shuffled_labels([50, 50])
    folds = torch.stack([stratified_fold(labels, 0, 5, seed)[1] for seed in range(10)])
    assert len(folds.unique(dim=0)) == 10
    torch.rand(3)
    assert torch.equal(stratified_fold(labels, 0, 5, 4)[1], folds[4])


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (0, 1, r"data\.folds=1 must be at least 2 and at most the 4 images"),
        (0, 5, r"data\.folds=5 must be .* at most the 4"),
        (3, 3, r"data\.fold=3 does not exist: the data\.folds=3 are 0…2"),
        (-1, 3, r"data\.fold=-1 does not exist"),
    ],
)
def test_a_fold_that_cannot_be_is_refused(fold, folds, message):
    with pytest.raises(ConfigError, match=message):
        stratified_fold(torch.tensor([0, 0, 1, 1]), fold, folds, 0)


def test_a_class_of_one_image_cannot_be_folded():
    with pytest.raises(ConfigError, match=r"class 1 has one training image.*data\.fold=null"):
        stratified_fold(torch.tensor([0, 0, 1]), 0, 2, 0)


# labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 9], r"^val\.csv: image 2 has the label 9, but 4 classes are labelled 0…3"),
        ([0, -1, 4, 9], r"^val\.csv: image 1 has the label -1 \(3 labels are wrong\)"),
    ],
)
def test_labels_outside_the_classes_are_refused_with_the_first_and_their_number(labels, message):
    with pytest.raises(ConfigError, match=message):
        check_labels(torch.tensor(labels), 4, "val.csv")


@pytest.mark.parametrize("labels", [[], [0, 3, 0]])
def test_labels_of_the_classes_are_accepted_even_if_none_is_there(labels):
    check_labels(torch.tensor(labels, dtype=torch.int64), 4, "val.csv")


# some of the classes

PETS = ("cat", "dog", "eel", "fox")


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    chosen=st.lists(st.integers(0, 3), min_size=2, max_size=4, unique=True),
)
def test_what_is_kept_is_called_and_shows_what_it_did(labels, chosen):
    files = FileImages.of([f"{PETS[label]}/{i}.jpg" for i, label in enumerate(labels)], labels)
    pixels = ArrayImages(torch.tensor(labels).byte().view(-1, 1, 1, 1), torch.tensor(labels))
    wanted = [i for i, label in enumerate(labels) if label in chosen]
    kept = keep_classes(Split(files, PETS), chosen)
    assert kept.classes == tuple(PETS[number] for number in chosen)
    names = [kept.classes[label] for label in kept.images.labels.tolist()]
    assert [kept.images.name(i) for i in range(len(kept.images))] == [
        f"{name}/{i}.jpg" for name, i in zip(names, wanted, strict=True)
    ]
    assert files.labels.tolist() == labels  # the whole set stays as it is
    arrays = keep_classes(Split(pixels, PETS), chosen).images
    assert isinstance(arrays, ArrayImages)
    assert arrays.images.flatten().tolist() == [chosen[i] for i in arrays.labels.tolist()]
    assert torch.equal(arrays.labels, kept.images.labels)


def test_classes_are_chosen_by_name_by_number_or_both():
    assert class_numbers(["fox", 0, "dog"], PETS) == [3, 0, 1]
    assert class_numbers(["20", "10"], ("10", "20", "30")) == [1, 0]
    assert class_numbers([7, 3, "1"], tuple("0123456789")) == [7, 3, 1]


@pytest.mark.parametrize(
    ("chosen", "classes", "message"),
    [
        (["cat", "dgo"], PETS, r"no class is called 'dgo'; did you mean dog\? .* 0 cat, 1 dog"),
        ([0, 4], PETS, r"no class has the number 4 \(the 4 classes: 0 cat, .*3 fox\)"),
        ([0, -1], PETS, r"no class has the number -1"),
        ([0, 999], tuple(str(i) for i in range(100)), r"\(the 100 classes: 0 0, .*, …\)"),
        ([1, "dog"], PETS, r"gives class 1, dog, twice"),
        ([2, 2], PETS, r"gives class 2, eel, twice"),
        ([1], PETS, r"only_classes=\[1\] is less than two classes"),
        ([], PETS, r"less than two"),
        ("cat", PETS, r"only_classes=cat is no list of classes"),
        (3, PETS, r"only_classes=3 is no list"),
        ([0, True], PETS, r"True is neither .* quotes"),
        ([0, 1.5], PETS, r"1\.5 is neither"),
        ([1, 2], ("1", "2", "3"), r"1 is the name of class 0; to mean it give '1' in quotes"),
    ],
    ids=str,
)
def test_a_choice_that_cannot_be_is_refused_with_what_there_is(chosen, classes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        class_numbers(chosen, classes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.only_classes")

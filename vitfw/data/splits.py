"""Choosing among labelled images by class: some classes, a held-out part, a smaller set, folds.

What is drawn is a function of (labels, seed), the same on any machine.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vitfw.data.counter_rng import sample_keys
from vitfw.data.images import ArrayImages, Images, Split
from vitfw.data.sampler import occurrences
from vitfw.errors import ConfigError, nearest

SPLIT, LIMIT, FOLD = range(3)  # each chooses by random numbers of its own
MOST_LISTED = 20  # classes in a message


def keep_classes(found: Split, chosen: Sequence[int | str]) -> Split:
    """The images of the `chosen` classes, which are numbered anew in the order they are given in.

    Raises:
        ConfigError: as `class_numbers`.
    """
    numbers = class_numbers(chosen, found.classes)
    new_number = torch.full((len(found.classes),), -1)
    new_number[numbers] = torch.arange(len(numbers))
    labels = new_number[found.images.labels]
    index = (labels >= 0).nonzero()[:, 0]
    images: Images = found.images.subset(index)
    if isinstance(images, ArrayImages):
        images = replace(images, labels=labels[index])
    else:
        images.labels = labels[index]
    return Split(images, tuple(found.classes[number] for number in numbers))


def class_numbers(chosen: Sequence[int | str], classes: Sequence[str]) -> list[int]:
    """The numbers of the classes that `data.only_classes` gives, each by its name or number.

    Raises:
        ConfigError: as `check_choice`; there is no such class; one is given twice.
    """
    check_choice(chosen)
    numbers = [_class_number(asked, classes) for asked in chosen]
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            raise ConfigError(
                f"data.only_classes gives class {number}, {classes[number]}, twice; once will do"
            )
    return numbers


def check_choice(chosen: object) -> None:
    """Raises ConfigError where this is no list of at least two names or numbers of classes."""
    if isinstance(chosen, str) or not isinstance(chosen, Sequence):
        raise ConfigError(
            f"data.only_classes={chosen} is no list of classes: their numbers, [0,1,2], or names"
        )
    if len(chosen) < 2:
        raise ConfigError(
            f"data.only_classes={list(chosen)} is less than two classes: nothing to tell apart"
        )
    for asked in chosen:
        if isinstance(asked, bool) or not isinstance(asked, int | str):
            raise ConfigError(
                f"data.only_classes: {asked!r} is neither a class's number nor its name; names "
                "such as '7' or 'yes' need quotes"
            )


def _class_number(asked: int | str, classes: Sequence[str]) -> int:
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(classes[:MOST_LISTED]))
    listed += ", …" if len(classes) > MOST_LISTED else ""
    if isinstance(asked, str):
        if asked not in classes:
            raise ConfigError(
                f"data.only_classes: no class is called {asked!r}{nearest(asked, classes)} "
                f"(the {len(classes)} classes: {listed})"
            )
        return list(classes).index(asked)
    if str(asked) in classes and list(classes).index(str(asked)) != asked:
        raise ConfigError(
            f"data.only_classes: {asked} is the name of class {list(classes).index(str(asked))}; "
            f"to mean it give '{asked}' in quotes, and the others by their names, too"
        )
    if not 0 <= asked < len(classes):
        raise ConfigError(
            f"data.only_classes: no class has the number {asked} "
            f"(the {len(classes)} classes: {listed})"
        )
    return asked


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the kept and of the held-out part: labels [N] → ([N − n], [n]), both sorted.

    Every class gives `share` of its images, rounded to the nearest, at least one where the class
    has two.

    Raises:
        ConfigError: `share` is not in [0, 1); a class has a single image and nothing to share.
    """
    if not 0.0 <= share < 1.0:
        raise ConfigError(f"data.val_share {share} must lie in [0, 1)")
    if share == 0.0:
        return torch.arange(len(labels)), torch.arange(0)
    _refuse_single_images(labels, "data.val_share=0")
    order, place, size = _drawn_by_class(labels, seed, SPLIT)
    count = (share * size.double()).round().clamp(min=1).minimum(size - 1)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order[place < count]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def stratified_limit(labels: Tensor, limit: float, seed: int) -> Tensor:
    """Indices of a smaller set, sorted: labels [N] → [n] int64.

    `limit` is a share of the images (float) or a number of them (int). Classes keep their
    proportions, and at least one image each; a smaller limit chooses among what a larger one chose.

    Raises:
        ConfigError: a share outside (0, 1]; a number below that of the classes, or above N.

    Source: the places are those of Webster's (Sainte-Laguë's) apportionment: the j-th image of
    a class of n, j = 0, 1, …, is chosen in the order of (j + ½) / n.
    """
    classes = len(labels.unique())
    if isinstance(limit, int):
        total = limit
        if not classes <= limit <= len(labels) or isinstance(limit, bool):
            raise ConfigError(
                f"data.limit={limit} is a number of images: at least one for each of the "
                f"{classes} classes, at most all {len(labels)} "
                "(a share has a decimal point: 0.1, or 1.0 for all)"
            )
    elif not 0.0 < limit <= 1.0:
        raise ConfigError(
            f"data.limit={limit} is a share of the training images, more than 0 and at most 1.0; "
            "write a whole number, such as 1000, for a number of images"
        )
    else:
        total = max(round(limit * len(labels)), classes)
    order, place, size = _drawn_by_class(labels, seed, LIMIT)
    urgency = (place.double() + 0.5) / size
    urgency[place == 0] = 0.0
    return order[urgency.argsort(stable=True)[:total]].sort().values


def stratified_fold(labels: Tensor, fold: int, folds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training part and of fold number `fold`: labels [N] → both sorted, int64.

    The folds 0…`folds` − 1 partition the set. Their sizes differ by at most one image, and so do
    those of every class among them.

    Raises:
        ConfigError: less than two folds, more than images, or no fold of that number; a class has
            a single image, and one fold could not train on it.
    """
    if not 2 <= folds <= len(labels):
        raise ConfigError(
            f"data.folds={folds} must be at least 2 and at most the {len(labels)} images; "
            "5 and 10 are usual"
        )
    if not 0 <= fold < folds:
        raise ConfigError(
            f"data.fold={fold} does not exist: the data.folds={folds} are 0…{folds - 1}"
        )
    _refuse_single_images(labels, "data.fold=null")
    shuffled = sample_keys(seed, FOLD, torch.arange(len(labels))).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    in_fold = torch.zeros(len(labels), dtype=torch.bool)
    in_fold[by_class[fold::folds]] = True
    return (~in_fold).nonzero()[:, 0], in_fold.nonzero()[:, 0]


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Refuse labels [N] that are not all in 0…`num_classes` − 1; `where` is what holds them.

    Raises:
        ConfigError: names the first wrong label, its index and how many there are.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        others = f" ({len(wrong)} labels are wrong)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{where}: image {first} has the label {int(labels[first])}{others}, but "
            f"{num_classes} classes are labelled 0…{num_classes - 1}; "
            "correct the labels or data.num_classes"
        )


def _refuse_single_images(labels: Tensor, way_out: str) -> None:
    found, counts = labels.unique(return_counts=True)
    single = found[counts == 1]
    if len(single):
        raise ConfigError(
            f"class {int(single[0])} has one training image: none would be left to validate on; "
            f"add images, remove the class, or set {way_out}"
        )


def _drawn_by_class(labels: Tensor, seed: int, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random order [N] of the images; how many of its class come before each, and in all."""
    order = sample_keys(seed, stream, torch.arange(len(labels))).argsort(stable=True)
    _, class_of, sizes = labels[order].unique(return_inverse=True, return_counts=True)
    return order, occurrences(class_of), sizes[class_of]

"""Handwriting: MNIST and its kin, USPS, Semeion, scikit-learn's digits and Omniglot."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from vitfw.data.images import ArrayImages, Split
from vitfw.data.sets.dataset import (
    OTHERS,
    Dataset,
    DatasetFacts,
    Reader,
    SplitName,
    torchvision_arrays,
    torchvision_files,
)
from vitfw.data.splits import stratified_split

DIGITS = tuple(string.digits)
KMNIST = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
DIGITS_TEST_SHARE, DIGITS_SPLIT_SEED = 0.2, 0

GUESS = "a guess; data.stats=compute computes them"
TRAIN_AND_TEST: dict[SplitName, dict[str, Any]] = {
    "train": {"train": True},
    "test": {"train": False},
}


def read_digits(root: Path, split: SplitName, download: bool) -> Split:
    """scikit-learn's 1,797 digits. It has no official split: a fixed stratified fifth is test."""
    from sklearn.datasets import load_digits  # slow to import; only this reader needs it

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0 to 16 → 0 to 255
    labels = torch.from_numpy(digits.target.astype(np.int64))
    everything = ArrayImages(torch.from_numpy(pixels)[:, None], labels)
    kept, held_out = stratified_split(labels, DIGITS_TEST_SHARE, DIGITS_SPLIT_SEED)
    return Split(everything.subset(held_out if split == "test" else kept), DIGITS)


def mnist_like(name: str, dataset_class: Callable[..., Any], classes: tuple[str, ...]) -> Reader:
    """A reader of a set in MNIST's four files, in the folder that has its class's name."""
    return torchvision_arrays(
        name, dataset_class, TRAIN_AND_TEST, dataset_class.__name__, classes=lambda found: classes
    )


def omniglot_files(found: datasets.Omniglot) -> list[tuple[Path, int]]:
    """Paths and labels, characters in alphabetical order: torchvision's is the file system's."""
    number = {name: label for label, name in enumerate(omniglot_characters(found))}
    paths = Path(found.target_folder).glob("*/*/*.png")
    return [(path, number[f"{path.parent.parent.name}/{path.parent.name}"]) for path in paths]


def omniglot_characters(found: datasets.Omniglot) -> list[str]:
    """`Alphabet/characterNN` of every character of the set."""
    folders = Path(found.target_folder).glob("*/*/")
    return sorted(f"{path.parent.name}/{path.name}" for path in folders)


SETS: dict[str, Dataset] = {
    "digits": Dataset(
        DatasetFacts(
            title="Optical recognition of handwritten digits",
            classes=DIGITS,
            num_classes=10,
            channels=1,
            native_size=8,
            mean=(0.3055,),
            std=(0.3763,),
            hflip=0.0,
            shift=1,
            splits={"train": 1438, "test": 359},
            download_mb=0,
            licence="CC BY 4.0",
            source="inside scikit-learn; UCI, Alpaydin and Kaynak 1998",
            note="no official split: a fixed stratified fifth is test",
        ),
        read_digits,
    ),
    "mnist": Dataset(
        DatasetFacts(
            title="MNIST handwritten digits",
            classes=DIGITS,
            num_classes=10,
            channels=1,
            native_size=28,
            mean=(0.1307,),
            std=(0.3081,),
            hflip=0.0,
            shift=2,
            splits={"train": 60_000, "test": 10_000},
            download_mb=12,
            licence="CC BY-SA 3.0",
            source="LeCun, Cortes and Burges 1998",
        ),
        mnist_like("mnist", datasets.MNIST, DIGITS),
    ),
    "kmnist": Dataset(
        DatasetFacts(
            title="Kuzushiji-MNIST",
            classes=KMNIST,
            num_classes=10,
            channels=1,
            native_size=28,
            mean=(0.1918,),
            std=(0.3483,),
            statistics=OTHERS,
            hflip=0.0,
            shift=2,
            splits={"train": 60_000, "test": 10_000},
            download_mb=21,
            licence="CC BY-SA 4.0",
            source="Clanuwat et al. 2018; CODH",
        ),
        mnist_like("kmnist", datasets.KMNIST, KMNIST),
    ),
    "qmnist": Dataset(
        DatasetFacts(
            title="QMNIST handwritten digits",
            classes=DIGITS,
            num_classes=10,
            channels=1,
            native_size=28,
            mean=(0.1307,),
            std=(0.3081,),
            statistics="MNIST's, whose training images it rebuilds",
            hflip=0.0,
            shift=2,
            splits={"train": 60_000, "test": 60_000},
            download_mb=20,
            licence="BSD-3-Clause",
            source="Yadav and Bottou 2019",
            note="the first 10,000 test images are MNIST's, the other 50,000 were lost until then",
        ),
        torchvision_arrays(
            "qmnist",
            datasets.QMNIST,
            {"train": {"what": "train"}, "test": {"what": "test"}},
            "QMNIST",
            arrays=lambda found: (found.data, found.targets[:, 0]),  # [N, 8]: class, writer, …
            classes=lambda found: DIGITS,
        ),
    ),
    "usps": Dataset(
        DatasetFacts(
            title="USPS handwritten digits",
            classes=DIGITS,
            num_classes=10,
            channels=1,
            native_size=16,
            mean=(0.2469,),
            std=(0.2989,),
            statistics=OTHERS,
            hflip=0.0,
            shift=1,
            splits={"train": 7291, "test": 2007},
            download_mb=8,
            licence="none stated",
            source="Hull 1994; LIBSVM's copy",
            note="usps.bz2 and usps.t.bz2 lie in data.root itself",
        ),
        torchvision_arrays("usps", datasets.USPS, TRAIN_AND_TEST, "", classes=lambda found: DIGITS),
    ),
    "semeion": Dataset(
        DatasetFacts(
            title="Semeion handwritten digits",
            classes=DIGITS,
            num_classes=10,
            channels=1,
            native_size=16,
            mean=(0.5,),
            std=(0.5,),
            statistics=GUESS,
            hflip=0.0,
            shift=1,
            splits={"train": 1593},
            download_mb=3,
            licence="CC BY 4.0",
            source="UCI; Semeion Research Center, Tactile Srl 1994",
            note="black and white; semeion.data lies in data.root itself",
        ),
        torchvision_arrays(
            "semeion",
            datasets.SEMEION,
            {"train": {}},
            "",
            arrays=lambda found: (found.data, found.labels),
            classes=lambda found: DIGITS,
        ),
    ),
    "omniglot": Dataset(
        DatasetFacts(
            title="Omniglot characters of 30 alphabets",
            num_classes=964,
            channels=1,
            native_size=105,
            mean=(0.9221,),
            std=(0.2681,),
            statistics=OTHERS,
            hflip=0.0,
            shift=8,
            splits={"train": 19_280},
            download_mb=9,
            licence="MIT",
            source="Lake, Salakhutdinov and Tenenbaum 2015",
            note=(
                "the background set, 20 drawings of each character; the evaluation set is unused, "
                "its characters are other classes"
            ),
        ),
        torchvision_files(
            "omniglot",
            datasets.Omniglot,
            {"train": {"background": True}},
            "omniglot-py",
            files=omniglot_files,
            classes=omniglot_characters,
        ),
    ),
}

"""EMNIST: handwritten digits and letters, split in six ways."""

import string

from torch import Tensor
from torchvision import datasets

from vitfw.data.sets.dataset import OTHERS, Dataset, DatasetFacts, torchvision_arrays

DIGITS = tuple(string.digits)
# Balanced and ByMerge: a lower-case letter that looks like its capital is not a class of its own.
EMNIST_BY_CLASS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
EMNIST_BY_MERGE = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")


def upright(images: Tensor) -> Tensor:
    """EMNIST's files hold every image column by column: [N, W, H] → [N, H, W]."""
    return images.transpose(1, 2).contiguous()


def emnist(part: str, classes: tuple[str, ...], train: int, test: int, kind: str) -> Dataset:
    """One of the six EMNIST sets. On disk, labels of letters count from 1, the others from 0."""
    first_label = 1 if part == "letters" else 0
    facts = DatasetFacts(
        title=f"EMNIST {kind}",
        classes=classes,
        num_classes=len(classes),
        channels=1,
        native_size=28,
        mean=(0.1751,),
        std=(0.3332,),
        statistics=OTHERS if part == "balanced" else f"emnist_balanced's, {OTHERS}",
        hflip=0.0,
        shift=2,
        splits={"train": train, "test": test},
        download_mb=562,
        licence="none stated; made from NIST Special Database 19",
        source="Cohen, Afshar, Tapson and van Schaik 2017",
        note="one archive holds all six EMNIST sets; images are turned upright",
    )
    read = torchvision_arrays(
        f"emnist_{part}",
        datasets.EMNIST,
        {"train": {"split": part, "train": True}, "test": {"split": part, "train": False}},
        "EMNIST",
        arrays=lambda found: (upright(found.data), found.targets - first_label),
        classes=lambda found: classes,
    )
    return Dataset(facts, read)


SETS: dict[str, Dataset] = {
    "emnist_balanced": emnist("balanced", EMNIST_BY_MERGE, 112_800, 18_800, "Balanced"),
    "emnist_byclass": emnist("byclass", EMNIST_BY_CLASS, 697_932, 116_323, "ByClass"),
    "emnist_bymerge": emnist("bymerge", EMNIST_BY_MERGE, 697_932, 116_323, "ByMerge"),
    "emnist_letters": emnist("letters", tuple(string.ascii_lowercase), 124_800, 20_800, "Letters"),
    "emnist_digits": emnist("digits", DIGITS, 240_000, 40_000, "Digits"),
    "emnist_mnist": emnist("mnist", DIGITS, 60_000, 10_000, "MNIST"),
}

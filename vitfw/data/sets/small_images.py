"""Small photographs of things: Fashion-MNIST, CIFAR, SVHN and STL-10."""

import gzip
import shutil
from pathlib import Path
from typing import Any

from torchvision import datasets

from vitfw.atomic import replacing
from vitfw.data.sets.dataset import OTHERS, Dataset, DatasetFacts, SplitName, torchvision_arrays

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
    bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
    cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
    girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
    streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
    trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)
STL10 = tuple("airplane bird car cat deer dog horse monkey ship truck".split())

TRAIN_AND_TEST: dict[SplitName, dict[str, Any]] = {
    "train": {"train": True},
    "test": {"train": False},
}
SPLIT_TRAIN_AND_TEST: dict[SplitName, dict[str, Any]] = {
    "train": {"split": "train"},
    "test": {"split": "test"},
}


def fashion_mnist(root: str, train: bool, download: bool) -> datasets.FashionMNIST:
    """torchvision's, out of Debian's package where that is installed."""
    unpack_debian_fashion_mnist(Path(root) / "FashionMNIST" / "raw")
    return datasets.FashionMNIST(root, train=train, download=download)


def unpack_debian_fashion_mnist(raw: Path) -> None:
    """Unpack the Debian package's files to where torchvision looks, once.

    The package repacked the archives, so torchvision's checksum refuses them as they are; the
    unpacked files are the original's.
    """
    for packed in sorted(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz")):
        target = raw / packed.stem
        if target.exists():
            continue
        with replacing(target) as partial, gzip.open(packed) as source, open(partial, "wb") as sink:
            shutil.copyfileobj(source, sink)


SETS: dict[str, Dataset] = {
    "fashion_mnist": Dataset(
        DatasetFacts(
            title="Fashion-MNIST",
            classes=FASHION,
            num_classes=10,
            channels=1,
            native_size=28,
            mean=(0.2860,),
            std=(0.3530,),
            hflip=0.5,
            shift=2,
            splits={"train": 60_000, "test": 10_000},
            download_mb=31,
            licence="MIT",
            source="Xiao, Rasul and Vollgraf 2017",
            note=f"Debian's package dataset-fashion-mnist is read in {DEBIAN_FASHION_MNIST}",
        ),
        torchvision_arrays(
            "fashion_mnist",
            fashion_mnist,
            TRAIN_AND_TEST,
            "FashionMNIST",
            classes=lambda found: FASHION,
        ),
    ),
    "cifar10": Dataset(
        DatasetFacts(
            title="CIFAR-10",
            classes=CIFAR10,
            num_classes=10,
            channels=3,
            native_size=32,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            hflip=0.5,
            shift=4,
            splits={"train": 50_000, "test": 10_000},
            download_mb=170,
            licence="none stated",
            source="Krizhevsky 2009",
        ),
        torchvision_arrays(
            "cifar10",
            datasets.CIFAR10,
            TRAIN_AND_TEST,
            "cifar-10-batches-py",
            classes=lambda found: found.classes,
        ),
    ),
    "cifar100": Dataset(
        DatasetFacts(
            title="CIFAR-100",
            classes=CIFAR100,
            num_classes=100,
            channels=3,
            native_size=32,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            hflip=0.5,
            shift=4,
            splits={"train": 50_000, "test": 10_000},
            download_mb=169,
            licence="none stated",
            source="Krizhevsky 2009",
        ),
        torchvision_arrays(
            "cifar100",
            datasets.CIFAR100,
            TRAIN_AND_TEST,
            "cifar-100-python",
            classes=lambda found: found.classes,
        ),
    ),
    "svhn": Dataset(
        DatasetFacts(
            title="Street View House Numbers, cropped digits",
            classes=tuple("0123456789"),
            num_classes=10,
            channels=3,
            native_size=32,
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            statistics=OTHERS,
            hflip=0.0,
            shift=4,
            splits={"train": 73_257, "test": 26_032},
            download_mb=246,
            licence="non-commercial use only",
            source="Netzer et al. 2011",
            note=(
                "the 531,131 easier images of `extra` are unused; train_32x32.mat and "
                "test_32x32.mat lie in data.root itself"
            ),
        ),
        torchvision_arrays(
            "svhn",
            datasets.SVHN,
            SPLIT_TRAIN_AND_TEST,
            "",
            arrays=lambda found: (found.data, found.labels),
            classes=lambda found: tuple("0123456789"),
        ),
    ),
    "stl10": Dataset(
        DatasetFacts(
            title="STL-10",
            classes=STL10,
            num_classes=10,
            channels=3,
            native_size=96,
            mean=(0.4467, 0.4398, 0.4066),
            std=(0.2603, 0.2566, 0.2713),
            statistics=OTHERS,
            hflip=0.5,
            shift=12,
            splits={"train": 5000, "test": 8000},
            download_mb=2640,
            licence="none stated; the images are from ImageNet",
            source="Coates, Lee and Ng 2011",
            note="the 100,000 images without a label, most of the download, are unused",
        ),
        torchvision_arrays(
            "stl10",
            datasets.STL10,
            SPLIT_TRAIN_AND_TEST,
            "stl10_binary",
            arrays=lambda found: (found.data, found.labels),
            classes=lambda found: STL10,
        ),
    ),
}

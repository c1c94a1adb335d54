"""Photographs of flowers, pets, dishes, cars and aircraft: classes that look much alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision import datasets

from vitfw.data.sets.dataset import Dataset, photographs, spaced, torchvision_files
from vitfw.errors import ConfigError


class Pets(datasets.OxfordIIITPet):
    """torchvision's, with a public list of its files and labels.

    A line of an annotation file is `Abyssinian_100 1 1 1`: image, class, species, breed.
    """

    def __init__(self, root: str, split: str, download: bool = False):
        super().__init__(root, split=split, download=download)
        folder = Path(root) / "oxford-iiit-pet"
        lines = (folder / "annotations" / f"{split}.txt").read_text().splitlines()
        rows = [line.split() for line in lines]
        self.files = [(folder / "images" / f"{row[0]}.jpg", int(row[1]) - 1) for row in rows]


def stanford_cars(
    root: str, split: str, download: bool, loader: Callable[[str], Any]
) -> datasets.StanfordCars:
    """torchvision's; its answer to `download` is an error.

    Raises:
        ConfigError: the files are not there; says where they go.
    """
    try:
        return datasets.StanfordCars(root, split=split, loader=loader)
    except RuntimeError as error:
        if not download:
            raise
        raise ConfigError(
            "stanford_cars: the site it came from is gone. Put cars_train/, cars_test/, devkit/ "
            f"and cars_test_annos_withlabels.mat into {Path(root) / 'stanford_cars'} by hand"
        ) from error


def aircraft(name: str, level: str, num_classes: int, title: str) -> Dataset:
    """FGVC-Aircraft by one of its three levels of classes."""
    return Dataset(
        photographs(
            title=title,
            num_classes=num_classes,
            splits={"train": 3334, "val": 3333, "test": 3333},
            download_mb=2750,
            licence="non-commercial research; the photographers keep the copyright",
            source="Maji et al. 2013",
            note="the lowest 20 rows of each image are a copyright banner; they are not cut off",
        ),
        torchvision_files(
            name,
            datasets.FGVCAircraft,
            {
                "train": {"split": "train", "annotation_level": level},
                "val": {"split": "val", "annotation_level": level},
                "test": {"split": "test", "annotation_level": level},
            },
            "fgvc-aircraft-2013b",
        ),
    )


SETS: dict[str, Dataset] = {
    "flowers102": Dataset(
        photographs(
            title="Oxford 102 Flowers",
            classes=tuple(datasets.Flowers102.classes),
            num_classes=102,
            splits={"train": 1020, "val": 1020, "test": 6149},
            download_mb=345,
            licence="none stated",
            source="Nilsback and Zisserman 2008",
            note="10 training images a class; papers often train on train and val together",
        ),
        torchvision_files(
            "flowers102",
            datasets.Flowers102,
            {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
            "flowers-102",
        ),
    ),
    "oxford_pets": Dataset(
        photographs(
            title="Oxford-IIIT Pets: breeds of cats and dogs",
            num_classes=37,
            splits={"train": 3680, "test": 3669},
            download_mb=811,
            licence="CC BY-SA 4.0",
            source="Parkhi et al. 2012",
        ),
        torchvision_files(
            "oxford_pets",
            Pets,
            {"train": {"split": "trainval"}, "test": {"split": "test"}},
            "oxford-iiit-pet",
            files=lambda found: found.files,
        ),
    ),
    "food101": Dataset(
        photographs(
            title="Food-101 dishes",
            num_classes=101,
            splits={"train": 75_750, "test": 25_250},
            download_mb=4996,
            licence="none stated; the images are Foodspotting's",
            source="Bossard, Guillaumin and Van Gool 2014",
            note="the training labels are noisy on purpose; the test labels were checked",
        ),
        torchvision_files(
            "food101",
            datasets.Food101,
            {"train": {"split": "train"}, "test": {"split": "test"}},
            "food-101",
            classes=lambda found: spaced(found.classes),
        ),
    ),
    "stanford_cars": Dataset(
        photographs(
            title="Stanford Cars: make, model and year",
            num_classes=196,
            splits={"train": 8144, "test": 8041},
            download_mb=1960,
            licence="non-commercial research",
            source="Krause et al. 2013",
            note="no longer downloadable: put cars_train/, cars_test/, devkit/ and "
            "cars_test_annos_withlabels.mat into stanford_cars/ below data.root",
        ),
        torchvision_files(
            "stanford_cars",
            stanford_cars,
            {"train": {"split": "train"}, "test": {"split": "test"}},
            "stanford_cars",
        ),
    ),
    "fgvc_aircraft": aircraft("fgvc_aircraft", "variant", 100, "FGVC-Aircraft by variant"),
    "fgvc_aircraft_family": aircraft(
        "fgvc_aircraft_family", "family", 70, "FGVC-Aircraft by family"
    ),
    "fgvc_aircraft_manufacturer": aircraft(
        "fgvc_aircraft_manufacturer", "manufacturer", 30, "FGVC-Aircraft by manufacturer"
    ),
}

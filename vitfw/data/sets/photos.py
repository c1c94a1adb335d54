"""Photographs of objects, textures, scenes and countries."""

from collections.abc import Iterator
from pathlib import Path

from torchvision import datasets

from vitfw.data.sets.dataset import Dataset, photographs, spaced, torchvision_files


def caltech_files(
    found: datasets.Caltech101 | datasets.Caltech256, folder: str
) -> Iterator[tuple[Path, int]]:
    """The images in the folders of torchvision's categories."""
    for label, category in enumerate(found.categories):
        for path in (Path(found.root) / folder / category).glob("*.jpg"):
            yield path, label


def caltech256_class(category: str) -> str:
    """`003.backpack` → `backpack`, `253.faces-easy-101` (from Caltech-101) → `faces easy`."""
    return category.partition(".")[2].removesuffix("-101").replace("-", " ")


SETS: dict[str, Dataset] = {
    "dtd": Dataset(
        photographs(
            title="Describable Textures",
            num_classes=47,
            splits={"train": 1880, "val": 1880, "test": 1880},
            download_mb=625,
            licence="research",
            source="Cimpoi et al. 2014",
            note="the first of its ten partitions",
        ),
        torchvision_files(
            "dtd",
            datasets.DTD,
            {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
            "dtd",
        ),
    ),
    "caltech101": Dataset(
        photographs(
            title="Caltech-101 objects",
            num_classes=101,
            splits={"train": 8677},
            download_mb=137,
            licence="CC BY 4.0",
            source="Fei-Fei, Fergus and Perona 2004",
            note="without BACKGROUND_Google, which is no class",
        ),
        torchvision_files(
            "caltech101",
            datasets.Caltech101,
            {"train": {}},
            "caltech101",
            files=lambda found: caltech_files(found, "101_ObjectCategories"),
            classes=lambda found: spaced(found.categories),
        ),
    ),
    "caltech256": Dataset(
        photographs(
            title="Caltech-256 objects",
            num_classes=257,
            splits={"train": 30_607},
            download_mb=1183,
            licence="CC BY 4.0",
            source="Griffin, Holub and Perona 2007",
            note="its 257th category, clutter, is a class too",
        ),
        torchvision_files(
            "caltech256",
            datasets.Caltech256,
            {"train": {}},
            "caltech256",
            files=lambda found: caltech_files(found, "256_ObjectCategories"),
            classes=lambda found: map(caltech256_class, found.categories),
        ),
    ),
    "sun397": Dataset(
        photographs(
            title="SUN397 scenes",
            num_classes=397,
            splits={"train": 108_754},
            download_mb=39_000,
            licence="none stated; the images are from the web",
            source="Xiao et al. 2010",
            note="its ten partitions of 50 and 50 images a class are not used",
        ),
        torchvision_files(
            "sun397",
            datasets.SUN397,
            {"train": {}},
            "SUN397",
            classes=lambda found: spaced(found.classes),
        ),
    ),
    "country211": Dataset(
        photographs(
            title="Country211: where a photograph was taken",
            num_classes=211,
            splits={"train": 31_650, "val": 10_550, "test": 21_100},
            download_mb=11_000,
            licence="a Creative Commons licence an image, of its photographer's choice",
            source="Radford et al. 2021, from YFCC100M",
            note="classes are ISO 3166 codes of countries",
        ),
        torchvision_files(
            "country211",
            datasets.Country211,
            {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
            "country211",
        ),
    ),
}

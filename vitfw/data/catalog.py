"""Every data set that can be named: those of the catalogue's families, and the user's own."""

from collections.abc import Mapping
from typing import Any

from vitfw.data.sets import (
    emnist,
    faces,
    fine_grained,
    handwriting,
    imagenet,
    large,
    photos,
    signs,
    small_images,
    specialised,
)
from vitfw.data.sets.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, DatasetFacts
from vitfw.errors import ConfigError, nearest

FAMILIES = (
    handwriting,
    emnist,
    small_images,
    specialised,
    faces,
    signs,
    fine_grained,
    photos,
    imagenet,
    large,
)
DATASETS: dict[str, Dataset] = {
    name: dataset for family in FAMILIES for name, dataset in family.SETS.items()
}


def _yours(title: str, **more: Any) -> DatasetFacts:
    facts: dict[str, Any] = {
        "num_classes": 0,
        "channels": 3,
        "native_size": 224,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "hflip": 0.5,
        "shift": 8,
        "splits": {},
        "download_mb": 0,
        "licence": "yours",
        "source": "yours",
        "same_size": False,
        "statistics": "ImageNet's",
    }
    return DatasetFacts(title=title, **{**facts, **more})


# Sets whose classes and splits are found where `data.root` points.
YOURS: dict[str, DatasetFacts] = {
    "image_folder": _yours("A folder with one subfolder a class"),
    "csv": _yours("A table of paths and labels"),
    "huggingface": _yours("A data set of Hugging Face's hub, or a folder in its format"),
    "stream": _yours("Shards written by `vitfw pack`, on disk or in an object store"),
    "fake": _yours(
        "A noisy pattern a class, made up on the spot",
        native_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        hflip=0.0,
        shift=0,
        licence="none",
        source="computed",
        same_size=True,
        statistics="the data set's",
    ),
}

CATALOG: Mapping[str, DatasetFacts] = {
    **{name: dataset.facts for name, dataset in DATASETS.items()},
    **YOURS,
}


def facts_of(name: str) -> DatasetFacts:
    """The facts of the data set called `name`.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in CATALOG:
        meant = nearest(name, CATALOG) or f"; known: {', '.join(CATALOG)}"
        raise ConfigError(f"no data set is called {name!r}{meant}")
    return CATALOG[name]

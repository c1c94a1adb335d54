"""What is written down of a data set, and how one of torchvision's is read."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitfw.data.images import ArrayImages, FileImages, Split
from vitfw.data.reading.fetch import obtain

SplitName = str  # train, val or test
Reader = Callable[[Path, SplitName, bool], Split]  # (root, split, download)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# `statistics` of figures that are in common use but that nobody computed here.
OTHERS = "others' figures, not recomputed here; data.stats=compute computes them"


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a data set. `mean` and `std` are per channel, of training pixels scaled to [0, 1].

    `splits` are the official ones and their number of images; where "test" is missing, a fixed
    stratified share of "train" is test; where "val" is missing, `data.val_share` of "train" is.
    `classes` is empty where the names are read with the images. `native_size` is the side of the
    images, or where they differ (`same_size` false) the usual size they are trained at. `hflip` is
    the usual probability of a mirror image (0 where it would change the class), `shift` the usual
    number of pixels an image is moved by. `statistics` says whose `mean` and `std` are.
    `extra` is the optional dependency it needs.
    """

    title: str
    num_classes: int
    channels: int
    native_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hflip: float
    shift: int
    splits: Mapping[str, int]
    download_mb: int
    licence: str
    source: str
    classes: tuple[str, ...] = ()
    same_size: bool = True
    statistics: str = "the data set's"
    note: str = ""
    extra: str | None = None


# Facts of photographs of all sizes, as they are usually trained on.
photographs = partial(
    DatasetFacts,
    channels=3,
    native_size=224,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    statistics="ImageNet's",
    hflip=0.5,
    shift=8,
    same_size=False,
)


@dataclass(frozen=True)
class Dataset:
    """A data set of the catalogue: its facts and its reader."""

    facts: DatasetFacts
    read: Reader


def torchvision_arrays(
    name: str,
    dataset_class: Callable[..., Any],
    splits: Mapping[SplitName, Mapping[str, Any]],
    folder: str,
    arrays: Callable[[Any], tuple[Any, Any]] = lambda found: (found.data, found.targets),
    classes: Callable[[Any], Iterable[str]] = lambda found: (),
    downloads: bool = True,
) -> Reader:
    """A reader of one of torchvision's sets that keeps its images as one array.

    `splits` are the constructor's arguments for each split, `folder` what the set is called below
    the root, `arrays` takes images (N×H×W, N×H×W×C or N×C×H×W, uint8) and labels out of what was
    constructed, `classes` the names. `downloads` false: torchvision has no `download` for it.
    """

    def read(root: Path, split: SplitName, download: bool) -> Split:
        def make(home: Path, fetch: bool) -> Any:
            options = {"download": fetch} if downloads else {}
            return dataset_class(str(home), **splits[split], **options)

        found = obtain(name, root, folder, download and downloads, make)
        images, labels = arrays(found)
        labels = torch.as_tensor(np.asarray(labels)).to(torch.int64)
        return Split(ArrayImages(channels_first(images), labels), tuple(classes(found)))

    return read


def torchvision_files(
    name: str,
    dataset_class: Callable[..., Any],
    splits: Mapping[SplitName, Mapping[str, Any]],
    folder: str,
    files: Callable[[Any], Iterable[tuple[str | Path, int]]] | None = None,
    classes: Callable[[Any], Iterable[str]] = lambda found: found.classes,
    downloads: bool = True,
    family: str = "",
    placed: Iterable[str] = (),
) -> Reader:
    """A reader of one of torchvision's sets that keeps images as files.

    As `torchvision_arrays`; `files` gives paths and labels. Without it the set must take a
    `loader`: asked for path and label instead of image and label, it lists itself. `family` and
    `placed` are `obtain`'s.
    """

    def read(root: Path, split: SplitName, download: bool) -> Split:
        def make(home: Path, fetch: bool) -> Any:
            options: dict[str, Any] = {"download": fetch} if downloads else {}
            if files is None:
                options["loader"] = str
            return dataset_class(str(home), **splits[split], **options)

        found = obtain(name, root, folder, download and downloads, make, family, placed)
        listed = files(found) if files else (found[i] for i in range(len(found)))
        # Some are listed in the file system's order, which differs between machines.
        ordered = sorted((os.fspath(path), label) for path, label in listed)
        paths, labels = [path for path, _ in ordered], [label for _, label in ordered]
        return Split(FileImages.of(paths, labels), tuple(classes(found)))

    return read


def in_subfolder(folder: str, signs: Iterable[str], reader: Reader) -> Reader:
    """`reader` with `root/folder` as its root, for sets whose files have no folder of their own.

    The root itself is taken if something in it, and nothing in the folder, matches one of `signs`.
    """

    def read(root: Path, split: SplitName, download: bool) -> Split:
        for home in (root / folder, root):
            if any(next(home.glob(sign), None) for sign in signs):
                return reader(home, split, download)
        return reader(root / folder, split, download)

    return read


def spaced(names: Iterable[str]) -> tuple[str, ...]:
    """`red_panda` → `red panda`, `bazaar/outdoor` → `bazaar, outdoor`."""
    return tuple(name.replace("_", " ").replace("/", ", ") for name in names)


def channels_first(images: Any) -> Tensor:
    """N×H×W, N×H×W×C or N×C×H×W of uint8 → [N, C, H, W]."""
    tensor = torch.as_tensor(images)
    if tensor.dim() == 3:
        return tensor[:, None]
    if tensor.shape[1] in (1, 3):
        return tensor.contiguous()
    return tensor.permute(0, 3, 1, 2).contiguous()

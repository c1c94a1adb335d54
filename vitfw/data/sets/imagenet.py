"""ImageNet, and Imagenette, ten of its classes."""

import hashlib
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.imagenet import (
    ARCHIVE_META,
    META_FILE,
    parse_devkit_archive,
    parse_train_archive,
    parse_val_archive,
)
from torchvision.models import ResNet18_Weights

from vitfw.data.sets.dataset import Dataset, in_subfolder, photographs, torchvision_files
from vitfw.errors import ConfigError

# Of ImageNet-1k's 1,000 synset ids in alphabetical order, one a line.
SYNSETS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def imagenet_folder(
    root: str, split: str, download: bool, loader: Callable[[str], Any]
) -> datasets.ImageFolder:
    """The synset folders in `root/train` or `root/val`, unpacked from the archives if need be.

    Raises:
        FileNotFoundError: they can be unpacked, and `download`, the leave to, is not given.
        ConfigError: there is nothing to unpack either, or it is corrupted; the folders are half
            unpacked, or not the same for both splits.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        needed = missing_archives(Path(root), split)
        if needed:
            raise ConfigError(
                f"imagenet: no {split}/ in {root}, and no {' and no '.join(needed)} to unpack. It "
                "can only be had with an account of image-net.org: put these files, or train/ and "
                "val/ with one folder a synset, there by hand"
            )
        if not download:
            raise FileNotFoundError(f"{folder} not found")
        unpack(Path(root), split)
    refuse_half_unpacked(folder)
    return datasets.ImageFolder(str(folder), loader=loader)


def missing_archives(home: Path, split: str) -> list[str]:
    needed = [ARCHIVE_META[split][0]]
    if split == "val" and not (home / META_FILE).exists():
        needed.append(ARCHIVE_META["devkit"][0])
    return [name for name in needed if not (home / name).exists()]


def unpack(home: Path, split: str) -> None:
    try:
        if split == "train":
            return parse_train_archive(home)
        if not (home / META_FILE).exists():
            parse_devkit_archive(home)
        parse_val_archive(home)
    except (RuntimeError, EOFError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"imagenet: the archives in {home} are not those of image-net.org, or cut off "
            f"({reason}); fetch them again. What was unpacked is removed"
        ) from error


def refuse_half_unpacked(folder: Path) -> None:
    entries = list(os.scandir(folder))
    for entry in entries:
        if entry.name.endswith((".tar", ".JPEG")):
            raise ConfigError(
                f"imagenet: {folder} holds {entry.name} beside the folders of the synsets: the "
                "unpacking is not finished. Remove the folder, and it is unpacked anew from "
                "ILSVRC2012_img_*.tar beside it"
            )
    train = folder.parent / "train"
    if folder == train or not train.is_dir():
        return
    here = {entry.name for entry in entries if entry.is_dir()}
    differ = here ^ {entry.name for entry in os.scandir(train) if entry.is_dir()}
    if differ:
        raise ConfigError(
            f"imagenet: {train} and {folder} do not have the same {len(here)} folders: "
            f"{min(differ)} is in one of them only ({len(differ)} such)"
        )


def synset_names(synsets: Sequence[str]) -> tuple[str, ...]:
    """English names of ImageNet-1k's synsets; of any other choice, the ids."""
    if hashlib.sha256("\n".join(synsets).encode()).hexdigest() == SYNSETS_SHA256:
        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(synsets)


def imagenette(name: str, size: str, folder: str, native_size: int, download_mb: int) -> Dataset:
    title = "Imagenette" if size == "full" else f"Imagenette, shorter side {size}"
    return Dataset(
        photographs(
            title=title,
            num_classes=10,
            native_size=native_size,
            splits={"train": 9469, "test": 3925},
            download_mb=download_mb,
            licence="ImageNet's: non-commercial research and education",
            source="Howard 2019, from ImageNet",
            note="its published validation set is the test set",
        ),
        torchvision_files(
            name,
            datasets.Imagenette,
            {"train": {"split": "train", "size": size}, "test": {"split": "val", "size": size}},
            folder,
            classes=lambda found: [names[0] for names in found.classes],
        ),
    )


SETS: dict[str, Dataset] = {
    "imagenette": imagenette("imagenette", "full", "imagenette2", 224, 1557),
    "imagenette_320": imagenette("imagenette_320", "320px", "imagenette2-320", 224, 342),
    "imagenette_160": imagenette("imagenette_160", "160px", "imagenette2-160", 128, 99),
    "imagenet": Dataset(
        photographs(
            title="ImageNet-1k (ILSVRC 2012)",
            num_classes=1000,
            splits={"train": 1_281_167, "test": 50_000},
            download_mb=154_600,
            licence="non-commercial research and education",
            source="Russakovsky et al. 2015; image-net.org, with an account",
            note="no download: put train/ and val/ with one folder a synset, or "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, "
            "into data.root or imagenet/ below it; the published validation set is the test set",
        ),
        in_subfolder(
            "imagenet",
            ("train/n*", "val/n*", "ILSVRC2012_*"),
            torchvision_files(
                "imagenet",
                imagenet_folder,
                {"train": {"split": "train"}, "test": {"split": "val"}},
                "",
                classes=lambda found: synset_names(found.classes),
                placed=("ILSVRC2012_*", META_FILE),
            ),
        ),
    ),
}

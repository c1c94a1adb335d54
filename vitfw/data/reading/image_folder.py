"""Images in folders, one subfolder a class.

`root/train/CLASS/*.jpg` with `root/val` and `root/test` where they exist, or `root/CLASS/*.jpg`
alone. A lone `val` beside `train` is the test set, as in ImageNet: validation is split off the
training images. With neither, a fixed stratified tenth of the images is to be test.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from PIL import Image

from vitfw.data.images import FileImages, Split
from vitfw.data.sets.dataset import SplitName
from vitfw.errors import ConfigError

Image.init()
SUFFIXES = frozenset(Image.registered_extensions())


def class_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_names(root: str | Path) -> tuple[str, ...]:
    """Names of the class folders under `root`, sorted.

    Raises:
        ConfigError: `root` does not exist, or has no subfolder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ConfigError(
            f"data.root={root} is not a folder; it should hold one subfolder of images a class"
        )
    folder = root / "train" if (root / "train").is_dir() else root
    names = tuple(p.name for p in class_folders(folder))
    if not names:
        raise ConfigError(f"{folder} has no class folders; expected {folder}/CLASS/image.jpg")
    return names


def read_images(folder: Path, classes: tuple[str, ...]) -> FileImages:
    """All images below the class folders of `folder`, in order of class, then path.

    Raises:
        ConfigError: the class folders are not `classes`, or one of them holds no image.
    """
    found = {p.name for p in class_folders(folder)}
    if found != set(classes):
        missing, extra = sorted(set(classes) - found), sorted(found - set(classes))
        raise ConfigError(
            f"{folder} and the training images have different classes: "
            f"missing {some_of(missing)}, extra {some_of(extra)}"
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(image_files(folder / name))
        if not images:
            raise ConfigError(
                f"class {name!r} has no images in {folder / name}; add some or remove the folder"
            )
        paths += images
        labels += [label] * len(images)
    return FileImages.of(paths, labels)


def image_files(folder: Path) -> Iterator[str]:
    """Files below `folder` with an image's suffix; hidden ones are not (macOS's `._photo.jpg`)."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if PurePath(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield f"{parent}/{name}"


def some_of(names: list[str], most: int = 5) -> str:
    """`['cat', 'dog']`, of many the first ones and how many there are."""
    if not names:
        return "none"
    if len(names) <= most:
        return str(names)
    return f"{names[:most]} and {len(names) - most} more"


def read_folder(root: str | Path) -> dict[SplitName, Split]:
    """The splits found under `root`: "train", and "val" and "test" where they are there.

    Raises:
        ConfigError: nothing usable is there; the message says what was expected.
    """
    root = Path(root).expanduser()
    classes = class_names(root)
    if not (root / "train").is_dir():
        return {"train": Split(read_images(root, classes), classes)}
    names: tuple[SplitName, ...] = ("train", "val", "test")
    splits = {
        name: Split(read_images(root / name, classes), classes)
        for name in names
        if (root / name).is_dir()
    }
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    return splits

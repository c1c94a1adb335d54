"""Images in folders, one subfolder a class.

`root/train/CLASS/*.jpg` with `root/val` and `root/test` where they exist, or `root/CLASS/*.jpg`
alone. A lone `val` beside `train` is the test set, as in ImageNet: validation is split off the
training images. With neither, a fixed stratified tenth of the images is test.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vitfw.data.batch_augment import BatchAugment, crop_boxes
from vitfw.data.counter_rng import sample_keys
from vitfw.data.splits import stratified_split
from vitfw.data.transforms import fit_to, open_image, to_uint8
from vitfw.errors import ConfigError

TEST_SHARE, TEST_SEED = 0.1, 0  # fixed: no setting moves an image from test to training
Image.init()
SUFFIXES = frozenset(Image.registered_extensions())


@dataclass(frozen=True)
class FolderImages:
    """Image files and their labels [N] int64."""

    paths: list[Path]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: Tensor) -> "FolderImages":
        return FolderImages([self.paths[i] for i in index.tolist()], self.labels[index])


@dataclass(frozen=True)
class ImageFolder:
    """The splits found under a folder. `val` is None where it has to be split off `train`."""

    classes: tuple[str, ...]
    train: FolderImages
    val: FolderImages | None
    test: FolderImages


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


def read_images(folder: Path, classes: tuple[str, ...]) -> FolderImages:
    """All images below the class folders of `folder`, in order of class, then path.

    Raises:
        ConfigError: the class folders are not `classes`, or one of them holds no image.
    """
    found = {p.name for p in class_folders(folder)}
    if found != set(classes):
        missing, extra = sorted(set(classes) - found), sorted(found - set(classes))
        raise ConfigError(
            f"{folder} and the training images have different classes: "
            f"missing {missing or 'none'}, extra {extra or 'none'}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(
            p
            for p in (folder / name).rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")  # macOS's ._photo.jpg
        )
        if not images:
            raise ConfigError(
                f"class {name!r} has no images in {folder / name}; add some or remove the folder"
            )
        paths += images
        labels += [label] * len(images)
    return FolderImages(paths, torch.tensor(labels))


def read_image_folder(root: str | Path) -> ImageFolder:
    """Find classes, images and splits under `root`.

    Raises:
        ConfigError: nothing usable is there; the message says what was expected.
    """
    root = Path(root).expanduser()
    classes = class_names(root)
    if not (root / "train").is_dir():
        everything = read_images(root, classes)
        kept, held_out = stratified_split(everything.labels, TEST_SHARE, TEST_SEED)
        return ImageFolder(classes, everything.subset(kept), None, everything.subset(held_out))
    train = read_images(root / "train", classes)
    others = {
        name: read_images(root / name, classes)
        for name in ("val", "test")
        if (root / name).is_dir()
    }
    if "test" in others:
        return ImageFolder(classes, train, others.get("val"), others["test"])
    if "val" in others:
        return ImageFolder(classes, train, None, others["val"])
    kept, held_out = stratified_split(train.labels, TEST_SHARE, TEST_SEED)
    return ImageFolder(classes, train.subset(kept), None, train.subset(held_out))


class FolderDataset(Dataset):
    """Decode on demand: index (epoch, i) → image [C, *size] uint8, label, key.

    With an `augment` that has a `crop_scale`, the random crop is cut here, from the full
    resolution; everything else is left to the batch. Otherwise the image is fitted to `size`.
    """

    def __init__(
        self,
        images: FolderImages,
        size: tuple[int, int],
        channels: int,
        seed: int,
        crop_share: float = 1.0,
        augment: BatchAugment | None = None,
    ):
        self.images = images
        self.size = size
        self.channels = channels
        self.seed = seed
        self.crop_share = crop_share
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, i = index
        key = sample_keys(self.seed, epoch, torch.tensor([i]))
        image = open_image(self.images.paths[i], self.channels)
        if self.augment is not None and self.augment.crop_scale:
            scale, ratio = self.augment.crop_scale, self.augment.crop_ratio
            shares = crop_boxes(key, tuple(scale), tuple(ratio))
            top, left, height, width = (share.item() for share in shares)
            box = (
                left * image.width,
                top * image.height,
                (left + width) * image.width,
                (top + height) * image.height,
            )
            image = image.resize(self.size[::-1], Image.Resampling.BICUBIC, box=box)
            pixels = to_uint8(image)
        else:
            pixels = fit_to(to_uint8(image), self.size, self.crop_share)
        return pixels, self.images.labels[i], key[0]

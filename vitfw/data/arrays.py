"""Data sets that fit in memory, read as one uint8 tensor.

Each reader takes (root, train, download) and gives `ArrayImages`. Downloads, checksums and
file formats are torchvision's; what is added is where else to look, and what to say when
nothing is there.
"""

import contextlib
import gzip
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from vitfw.atomic import replacing
from vitfw.data.catalog import CATALOG, needing_no_download
from vitfw.data.splits import stratified_split
from vitfw.errors import ConfigError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = "the four *-ubyte files"
# Fetching, unpacking and parsing raise these; torchvision checks file formats with `assert`.
FETCH_ERRORS = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    AssertionError,
    HTTPException,
    zlib.error,
)
DIGITS_TEST_SHARE = 0.2
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class ArrayImages:
    """Images [N, C, H, W] uint8 and labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "ArrayImages":
        return ArrayImages(self.images[index], self.labels[index])


def read_digits(root: Path, train: bool, download: bool) -> ArrayImages:
    """scikit-learn's 1,797 digits. It has no official split: a fixed stratified fifth is test."""
    from sklearn.datasets import load_digits  # slow to import; only this reader needs it

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0 to 16 → 0 to 255
    labels = torch.from_numpy(digits.target.astype(np.int64))
    everything = ArrayImages(torch.from_numpy(pixels)[:, None], labels)
    kept, held_out = stratified_split(labels, DIGITS_TEST_SHARE, DIGITS_SPLIT_SEED)
    return everything.subset(kept if train else held_out)


def read_mnist(root: Path, train: bool, download: bool) -> ArrayImages:
    with explained("mnist", root / "MNIST" / "raw", IDX_FILES, download):
        dataset = datasets.MNIST(root, train=train, download=download)
    return ArrayImages(dataset.data[:, None], dataset.targets)


def read_fashion_mnist(root: Path, train: bool, download: bool) -> ArrayImages:
    raw = root / "FashionMNIST" / "raw"
    with explained("fashion_mnist", raw, IDX_FILES, download):
        unpack_debian_fashion_mnist(raw)
        dataset = datasets.FashionMNIST(root, train=train, download=download)
    return ArrayImages(dataset.data[:, None], dataset.targets)


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


def read_cifar10(root: Path, train: bool, download: bool) -> ArrayImages:
    return _read_cifar("cifar10", datasets.CIFAR10, root, train, download)


def read_cifar100(root: Path, train: bool, download: bool) -> ArrayImages:
    return _read_cifar("cifar100", datasets.CIFAR100, root, train, download)


def _read_cifar(
    name: str, dataset_class: type[datasets.CIFAR10], root: Path, train: bool, download: bool
) -> ArrayImages:
    archive = root / dataset_class.filename
    folder = root / dataset_class.base_folder

    def archive_is_whole() -> bool:
        return check_integrity(archive, dataset_class.tgz_md5)

    with explained(name, root, f"{folder.name}/ or {archive.name}", download):
        try:
            # With a whole archive in place, torchvision's "download" is unpacking only.
            dataset = dataset_class(str(root), train, download=download or archive_is_whole())
        except FETCH_ERRORS as error:
            # torchvision keeps an archive that fails its checksum.
            if download and archive.exists() and not archive_is_whole():
                archive.unlink()
                raise OSError(f"the archive was corrupted and has been removed: {error}") from error
            raise
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # [N, C, H, W]
    return ArrayImages(images, torch.tensor(dataset.targets))


READERS: dict[str, Callable[[Path, bool, bool], ArrayImages]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
}


def make_fake(
    num_classes: int, channels: int, size: int, num_images: int, train: bool
) -> ArrayImages:
    """A random pattern a class under heavy noise: learnable, needs nothing, looks like nothing."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(num_classes, channels, size, size, generator=generator)
    generator.manual_seed(1 if train else 2)
    labels = torch.arange(num_images) % num_classes
    noise = torch.rand(num_images, channels, size, size, generator=generator)
    images = (patterns[labels] * 0.5 + noise * 0.5) * 255
    return ArrayImages(images.to(torch.uint8), labels)


@contextlib.contextmanager
def explained(name: str, folder: Path, files: str, download: bool) -> Iterator[None]:
    """Turn what goes wrong in fetching and reading a data set into one line."""
    try:
        yield
    except FETCH_ERRORS as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if len(list(folder.glob("*-ubyte"))) == 4:  # torchvision asks only whether they are there
            reason = f"they are there, but not intact ({message}); remove them"
        elif not download:
            reason = "data.download=false, and they are not there or not intact"
        else:
            reason = f"the download failed ({message})"
        alternatives = ", ".join(needing_no_download())
        if name == "fashion_mnist":
            alternatives += (
                f"; or Debian's package dataset-fashion-mnist, in {DEBIAN_FASHION_MNIST}"
            )
        raise ConfigError(
            f"{CATALOG[name].title}: looked for {files} in {folder}: {reason}. Put them there by "
            f"hand, or point data.root at them. Data sets that need no download: {alternatives}"
        ) from error

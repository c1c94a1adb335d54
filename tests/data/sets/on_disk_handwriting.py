"""Writers of handwriting: IDX files, LIBSVM's lines, Semeion's table, Omniglot's folders."""

import bz2
import gzip
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets
from written import Writer, Written, every_class, md5, pixels, put

from vitfw.data.sets import small_images

# ── IDX: big-endian, described at the foot of yann.lecun.com/exdb/mnist ───────────────────────


def idx(array: np.ndarray) -> bytes:
    """Type 8 is unsigned bytes, type 12 is int32."""
    kind = {np.dtype(np.uint8): 8, np.dtype(np.int32): 12}[array.dtype]
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def idx_files(seed: int = 0) -> dict[str, np.ndarray]:
    files = {}
    for part, count in (("train", 30), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = pixels(seed + count, count, 28, 28)
        files[f"{part}-labels-idx1-ubyte"] = every_class(10, count, seed).astype(np.uint8)
    return files


def of_idx_files(files: dict[str, np.ndarray]) -> dict[str, Written]:
    return {
        split: Written(
            files[f"{part}-images-idx3-ubyte"][:, None],
            files[f"{part}-labels-idx1-ubyte"].tolist(),
        )
        for split, part in (("train", "train"), ("test", "t10k"))
    }


def write_mnist_like(folder: str) -> Writer:
    def write(monkeypatch, root: Path) -> dict[str, Written]:
        files = idx_files()
        for name, array in files.items():
            put(root / folder / "raw" / name, idx(array))
        return of_idx_files(files)

    return write


def write_fashion_mnist(monkeypatch, root: Path) -> dict[str, Written]:
    """As Debian's package has it: gzip of its own making, so with checksums of its own."""
    folder = root.parent / "debian"
    files = idx_files()
    for name, array in files.items():
        put(folder / f"{name}.gz", gzip.compress(idx(array), 1, mtime=0))
    monkeypatch.setattr(small_images, "DEBIAN_FASHION_MNIST", folder)
    return of_idx_files(files)


def write_qmnist(monkeypatch, root: Path) -> dict[str, Written]:
    """The labels are eight numbers an image: class, NIST's series, writer, …"""
    written = {}
    for split, count in (("train", 30), ("test", 40)):
        images, labels = pixels(count, count, 28, 28), every_class(10, count)
        extended = pixels(1, count, 8).astype(np.int32) * 1000
        extended[:, 0] = labels
        put(root / f"QMNIST/raw/qmnist-{split}-images-idx3-ubyte", idx(images))
        put(root / f"QMNIST/raw/qmnist-{split}-labels-idx2-int", idx(extended))
        written[split] = Written(images[:, None], labels.tolist())
    return written


def write_emnist(part: str, num_classes: int) -> Writer:
    """Every image is stored column by column; the 26 letters count from 1."""
    first = 1 if part == "letters" else 0

    def write(monkeypatch, root: Path) -> dict[str, Written]:
        written = {}
        for split, count in (("train", 2 * num_classes), ("test", num_classes)):
            upright, labels = pixels(count, count, 28, 28), every_class(num_classes, count)
            stem = root / f"EMNIST/raw/emnist-{part}-{split}"
            put(stem.with_name(f"{stem.name}-images-idx3-ubyte"), idx(upright.swapaxes(1, 2)))
            on_disk = (labels + first).astype(np.uint8)
            put(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), idx(on_disk))
            written[split] = Written(upright[:, None], labels.tolist())
        return written

    return write


# ── other digits and characters ───────────────────────────────────────────────────────────────


def write_usps(monkeypatch, root: Path) -> dict[str, Written]:
    """LIBSVM's lines `label index:value …`, labels 1 to 10, values −1 to 1."""
    written = {}
    for split, name, count in (("train", "usps.bz2", 20), ("test", "usps.t.bz2", 10)):
        images, labels = pixels(count, count, 16, 16), every_class(10, count)
        lines = []
        for image, label in zip(images, labels, strict=True):
            # a thousandth above the grey level: rounding down must not lose it
            values = (image.ravel().astype(float) + 0.001).clip(0, 255) / 255 * 2 - 1
            features = " ".join(f"{i}:{value:.8f}" for i, value in enumerate(values, 1))
            lines.append(f"{label + 1} {features} \n")
        put(root / name, bz2.compress("".join(lines).encode()))
        written[split] = Written(images[:, None], labels.tolist())
    return written


def write_semeion(monkeypatch, root: Path) -> dict[str, Written]:
    """A line an image: 256 pixels, `0.0000` or `1.0000`, then ten flags of the digit."""
    ink, labels = pixels(0, 20, 16, 16) > 127, every_class(10, 20)
    lines = [
        " ".join(
            [f"{int(dot)}.0000" for dot in image.ravel()]
            + [str(int(k == label)) for k in range(10)]
        )
        for image, label in zip(ink, labels, strict=True)
    ]
    content = " \n".join(lines).encode()
    put(root / "semeion.data", content)
    monkeypatch.setattr(datasets.SEMEION, "md5_checksum", md5(content))
    return {"train": Written(ink[:, None].astype(np.uint8) * 255, labels.tolist())}


def write_omniglot(monkeypatch, root: Path) -> dict[str, Written]:
    """A folder an alphabet, a folder a character, one-bit PNG; two drawings of each of 964."""
    folder = root / "omniglot-py" / "images_background"
    archive = b"the zip, unpacked beside it"
    put(folder.with_suffix(".zip"), archive)
    sums = {**datasets.Omniglot.zips_md5, "images_background": md5(archive)}
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", sums)
    png = io.BytesIO()
    Image.fromarray(pixels(0, 105, 105) > 20).save(png, "PNG")
    characters = [(f"Alphabet_{i % 30:02}", f"character{i // 30 + 1:02}") for i in range(964)]
    paths, labels = [], []
    for label, (alphabet, character) in enumerate(sorted(characters)):
        for drawing in ("01", "02"):
            path = folder / alphabet / character / f"{label:04}_{drawing}.png"
            put(path, png.getvalue())
            paths.append(path)
            labels.append(label)
    return {"train": Written(paths, labels)}

"""Writers of small photographs, faces, tissue, satellite images and rendered scenes."""

import csv
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets
from written import Writer, Written, every_class, md5, pixels, put

from vitfw.data.sets import small_images

# ── CIFAR: pickled dicts of bytes in a tar.gz, described at cs.toronto.edu/~kriz/cifar.html ───


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the `str` of Python 2, which is what the published files were made with."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_str


def python2_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")  # where numpy 1 had it


def pack_cifar(monkeypatch, name: str, folder: Path) -> dict[str, Written]:
    """Put a small `cifar-*-python.tar.gz` into `folder`."""
    dataset, classes, key = {
        "cifar10": (datasets.CIFAR10, small_images.CIFAR10, b"labels"),
        "cifar100": (datasets.CIFAR100, small_images.CIFAR100, b"fine_labels"),
    }[name]
    files = {}
    for seed, (file, _) in enumerate(dataset.train_list + dataset.test_list):
        labels = every_class(len(classes), len(classes), seed).tolist()
        files[file] = {key: labels, b"data": pixels(seed, len(classes), 3072)}
        if name == "cifar100":
            files[file][b"coarse_labels"] = [label // 5 for label in labels]
    names = {dataset.meta["key"].encode(): [c.encode() for c in classes]}
    pickled = {file: python2_pickle(content) for file, content in files.items()}
    pickled[dataset.meta["filename"]] = python2_pickle(names)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / dataset.filename
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file, content in pickled.items():
            member = tarfile.TarInfo(f"{dataset.base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for attribute in ("train_list", "test_list"):
        sums = [[file, md5(pickled[file])] for file, _ in getattr(dataset, attribute)]
        monkeypatch.setattr(dataset, attribute, sums)
    meta = {**dataset.meta, "md5": md5(pickled[dataset.meta["filename"]])}
    monkeypatch.setattr(dataset, "meta", meta)
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive.read_bytes()))

    def read_as(parts: list) -> Written:
        """The page's own words: 1024 red, 1024 green, 1024 blue values a row, each row-major."""
        rows = np.concatenate([files[file][b"data"] for file, _ in parts])
        planes = [rows[:, c * 1024 : (c + 1) * 1024].reshape(-1, 32, 32) for c in range(3)]
        return Written(np.stack(planes, 1), [k for file, _ in parts for k in files[file][key]])

    return {"train": read_as(dataset.train_list), "test": read_as(dataset.test_list)}


def write_cifar(name: str) -> Writer:
    def write(monkeypatch, root: Path) -> dict[str, Written]:
        written = pack_cifar(monkeypatch, name, root)
        dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        with tarfile.open(root / dataset.filename) as tar:
            tar.extractall(root, filter="data")
        return written

    return write


# ── other small photographs ───────────────────────────────────────────────────────────────────


def write_svhn(monkeypatch, root: Path) -> dict[str, Written]:
    """MATLAB: X is H × W × C × N, y is N × 1 and says 10 where the digit is 0."""
    written, sums = {}, dict(datasets.SVHN.split_list)
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 20), ("test", 10)):
        images, labels = pixels(count, count, 3, 32, 32), every_class(10, count)
        path = root / f"{split}_32x32.mat"
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": y}, do_compression=True)
        sums[split] = [sums[split][0], path.name, md5(path.read_bytes())]
        written[split] = Written(images, labels.tolist())
    monkeypatch.setattr(datasets.SVHN, "split_list", sums)
    return written


def write_stl10(monkeypatch, root: Path) -> dict[str, Written]:
    """Raw bytes: per image three planes, each column by column; labels count from 1."""
    written, files = {}, {"unlabeled_X.bin": pixels(7, 2, 3, 96, 96).tobytes()}
    for split, count in (("train", 10), ("test", 20)):
        images, labels = pixels(count, count, 3, 96, 96), every_class(10, count)
        files[f"{split}_X.bin"] = images.swapaxes(2, 3).tobytes()
        files[f"{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
        written[split] = Written(images, labels.tolist())
    names = "airplane bird car cat deer dog horse monkey ship truck".split()
    files["class_names.txt"] = "".join(f"{name}\n" for name in names).encode()
    for name, content in files.items():
        put(root / "stl10_binary" / name, content)
    for attribute in ("train_list", "test_list"):
        sums = [[file, md5(files[file])] for file, _ in getattr(datasets.STL10, attribute)]
        monkeypatch.setattr(datasets.STL10, attribute, sums)
    return written


# ── faces ─────────────────────────────────────────────────────────────────────────────────────


def write_fer2013(monkeypatch, root: Path, name: str = "fer2013.csv") -> dict[str, Written]:
    """`emotion,pixels,Usage`, or in icml_face_data.csv `emotion, Usage, pixels` with the blanks."""
    usage = ["Training"] * 14 + ["PublicTest", "PrivateTest"] * 7
    usage = [usage[i] for i in np.random.default_rng(0).permutation(28)]
    images, labels = pixels(0, 28, 48, 48), np.zeros(28, dtype=int)
    for use in set(usage):
        rows = [i for i in range(28) if usage[i] == use]
        labels[rows] = every_class(7, len(rows))
    path = root / "fer2013" / name
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        blanks = name == "icml_face_data.csv"
        header = ["emotion", " Usage", " pixels"] if blanks else ["emotion", "pixels", "Usage"]
        table.writerow(header)
        for image, label, use in zip(images, labels, usage, strict=True):
            values = " ".join(str(value) for value in image.ravel())
            table.writerow([label, use, values] if blanks else [label, values, use])
    key = "icml" if blanks else "fer"
    sums = {**datasets.FER2013._RESOURCES, key: (name, md5(path.read_bytes()))}
    monkeypatch.setattr(datasets.FER2013, "_RESOURCES", sums)
    written = {}
    for split, use in (("train", "Training"), ("val", "PublicTest"), ("test", "PrivateTest")):
        rows = [i for i in range(28) if usage[i] == use]
        written[split] = Written(images[rows][:, None], labels[rows].tolist())
    return written


def write_lfw(monkeypatch, root: Path) -> dict[str, Written]:
    """lfw-funneled.tgz not unpacked yet, people.txt in ten folds, lfw-names.txt.

    158 people have ten images or eleven, thirty have fewer.
    """
    folder = root / "lfw-py"
    people = {f"Person_{i:03}": 10 + i % 2 for i in range(158)}
    people |= {f"Rare_{i:02}": 1 + i % 9 for i in range(30)}
    order = [list(people)[i] for i in np.random.default_rng(0).permutation(len(people))]
    folds = [order[k::10] for k in range(10)]
    lines = ["10"]
    for fold in folds:
        lines += [str(len(fold)), *(f"{name}\t{people[name]}" for name in fold)]
    put(folder / "people.txt", "\n".join([*lines, ""]).encode())
    names = "".join(f"{name}\t{people[name]}\n" for name in sorted(people))
    put(folder / "lfw-names.txt", names.encode())
    jpeg = io.BytesIO()
    Image.fromarray(pixels(0, 250, 250, 3) // 16).save(jpeg, "JPEG")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name, count in people.items():
            for i in range(1, count + 1):
                member = tarfile.TarInfo(f"lfw_funneled/{name}/{name}_{i:04}.jpg")
                member.size = len(jpeg.getvalue())
                tar.addfile(member, io.BytesIO(jpeg.getvalue()))
    put(folder / "lfw-funneled.tgz", archive.getvalue())
    monkeypatch.setattr(
        datasets.LFWPeople,
        "file_dict",
        {"funneled": ("lfw_funneled", "lfw-funneled.tgz", md5(archive.getvalue()))},
    )
    lists = ("people.txt", "lfw-names.txt")
    sums = {name: md5((folder / name).read_bytes()) for name in lists}
    monkeypatch.setattr(datasets.LFWPeople, "checksums", sums)
    paths, labels = [], []
    for name in (name for name in sorted(people) if name.startswith("Person")):
        for i in range(1, people[name] + 1):
            paths.append(folder / "lfw_funneled" / name / f"{name}_{i:04}.jpg")
            labels.append(int(name[-3:]))
    return {"train": Written(paths, labels)}


# ── tissue, satellite images, rendered scenes ─────────────────────────────────────────────────


def write_pcam(monkeypatch, root: Path) -> dict[str, Written]:
    """HDF5: `x` N × 96 × 96 × 3, `y` N × 1 × 1 × 1; validation is called `valid`."""
    written = {}
    (root / "pcam").mkdir(parents=True)
    for split, part, count in (("train", "train", 8), ("val", "valid", 4), ("test", "test", 6)):
        images, labels = pixels(count, count, 96, 96, 3), every_class(2, count)
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(root / "pcam" / f"{stem}_x.h5", "w") as file:
            file.create_dataset("x", data=images)
        with h5py.File(root / "pcam" / f"{stem}_y.h5", "w") as file:
            file.create_dataset("y", data=labels.astype(np.uint8).reshape(-1, 1, 1, 1))
        written[split] = Written(images.transpose(0, 3, 1, 2), labels.tolist())
    return written


def write_eurosat(monkeypatch, root: Path) -> dict[str, Written]:
    """EuroSAT.zip, unpacked: `2750/River/River_1.jpg`."""
    names = (
        "AnnualCrop Forest HerbaceousVegetation Highway Industrial "
        "Pasture PermanentCrop Residential River SeaLake"
    ).split()
    archive, paths, labels = io.BytesIO(), [], []
    with zipfile.ZipFile(archive, "w") as packed:
        for label, name in enumerate(names):
            for i in (1, 2):
                jpeg = io.BytesIO()
                Image.fromarray(pixels(label + 10 * i, 64, 64, 3)).save(jpeg, "JPEG")
                packed.writestr(f"2750/{name}/{name}_{i}.jpg", jpeg.getvalue())
                paths.append(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg")
                labels.append(label)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(root / "eurosat")
    return {"train": Written(paths, labels)}


def write_clevr(monkeypatch, root: Path) -> dict[str, Written]:
    """Images and a JSON of scenes with their objects; none for the official test images."""
    folder, written = root / "clevr" / "CLEVR_v1.0", {}
    for split, part, count in (("train", "train", 16), ("test", "val", 8), (None, "test", 2)):
        labels = every_class(8, count).tolist()
        paths = [folder / f"images/{part}/CLEVR_{part}_{i:06}.png" for i in range(count)]
        png = io.BytesIO()
        Image.fromarray(pixels(count, 320, 480, 3) // 64).save(png, "PNG")
        for path in paths:
            put(path, png.getvalue())
        if split:
            scenes = [
                {"image_filename": path.name, "objects": [{"shape": "cube"}] * (label + 3)}
                for path, label in zip(paths, labels, strict=True)
            ]
            put(
                folder / f"scenes/CLEVR_{part}_scenes.json", json.dumps({"scenes": scenes}).encode()
            )
            written[split] = Written(paths, labels)
    return written

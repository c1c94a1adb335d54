"""Writes a few images of each set of files as its archives lay them out.

What is told by the pixels: the grey value is ten times the label, the width says the split.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WIDTHS = {"train": 16, "val": 17, "test": 18}

Classes = tuple[str, ...]
WRITERS: dict[str, Callable[[Path], Classes]] = {}


def photo(path: Path, label: int, split: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = 10 * label + 5
    Image.new("RGB", (WIDTHS[split], 12), (grey, grey, grey)).save(path)


def text(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def writes(*names: str) -> Callable[[Callable[[Path], Classes]], Callable[[Path], Classes]]:
    """The function writes these sets below a root and returns their classes' names."""

    def remember(writer: Callable[[Path], Classes]) -> Callable[[Path], Classes]:
        WRITERS.update(dict.fromkeys(names, writer))
        return writer

    return remember


@writes("flowers102")
def flowers(root: Path) -> Classes:
    folder = root / "flowers-102"
    splits = {"trnid": "train", "valid": "val", "tstid": "test"}
    ids, labels = {}, [2, 1, 1, 2, 2, 1, 1]
    for key, numbers in {"trnid": [6, 1, 3], "valid": [2, 5], "tstid": [7, 4]}.items():
        ids[key] = np.array([numbers], dtype=np.uint16)
        for number in numbers:
            label = labels[number - 1] - 1
            photo(folder / "jpg" / f"image_{number:05d}.jpg", label, splits[key])
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    savemat(folder / "setid.mat", ids)
    return "pink primrose", "hard-leaved pocket orchid"


@writes("oxford_pets")
def pets(root: Path) -> Classes:
    folder = root / "oxford-iiit-pet"
    for file, split in {"trainval": "train", "test": "test"}.items():
        lines = []
        for label, breed in enumerate(["Abyssinian", "american_bulldog"]):
            for number in (1, 2):
                name = f"{breed}_{file}{number}"
                photo(folder / "images" / f"{name}.jpg", label, split)
                lines.append(f"{name} {label + 1} {label + 1} 1")
        text(folder / "annotations" / f"{file}.txt", lines)
    return "Abyssinian", "American Bulldog"


@writes("food101")
def food(root: Path) -> Classes:
    folder = root / "food-101"
    for split, first in {"train": 100, "test": 200}.items():
        listed = {
            dish: [f"{dish}/{number}" for number in (first, first + 1)]
            for dish in ("waffles", "apple_pie")
        }
        for dish, images in listed.items():
            for image in images:
                photo(folder / "images" / f"{image}.jpg", int(dish == "waffles"), split)
        text(folder / "meta" / f"{split}.json", [json.dumps(listed)])
    return "apple pie", "waffles"


@writes("stanford_cars")
def cars(root: Path) -> Classes:
    folder = root / "stanford_cars"
    models = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([models], dtype=object)})
    lists = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, file in lists.items():
        rows = [(39, 116, label + 1, f"{n:05d}.jpg") for n, label in enumerate([1, 0, 1], 1)]
        fields = [("bbox_x1", "O"), ("bbox_y1", "O"), ("class", "O"), ("fname", "O")]
        savemat(folder / file, {"annotations": np.array([rows], dtype=fields)})
        for _, _, number, name in rows:
            photo(folder / f"cars_{split}" / name, number - 1, split)
    return tuple(models)


AIRCRAFT = {
    "variant": ("variants.txt", ("707-320", "A300B4", "Model B200")),
    "family": ("families.txt", ("Airbus A300", "Boeing 707", "Model B200")),
    "manufacturer": ("manufacturers.txt", ("Airbus", "Boeing")),
}


@writes("fgvc_aircraft")
def aircraft(root: Path, level: str = "variant") -> Classes:
    folder = root / "fgvc-aircraft-2013b" / "data"
    file, classes = AIRCRAFT[level]
    text(folder / file, classes)
    for number, split in enumerate(["train", "val", "test"]):
        lines = []
        for label, name in enumerate(classes):
            image = f"{1000 * number + label:07d}"
            photo(folder / "images" / f"{image}.jpg", label, split)
            lines.append(f"{image} {name}")
        text(folder / f"images_{level}_{split}.txt", lines)
    return classes


@writes("fgvc_aircraft_family")
def aircraft_family(root: Path) -> Classes:
    return aircraft(root, "family")


@writes("fgvc_aircraft_manufacturer")
def aircraft_manufacturer(root: Path) -> Classes:
    return aircraft(root, "manufacturer")


@writes("dtd")
def dtd(root: Path) -> Classes:
    folder = root / "dtd" / "dtd"
    for number, split in enumerate(["train", "val", "test"]):
        images = [f"{texture}/{texture}_{number:04d}.jpg" for texture in ("zigzagged", "banded")]
        for label, image in zip((1, 0), images, strict=True):
            photo(folder / "images" / image, label, split)
        text(folder / "labels" / f"{split}1.txt", images)
    return "banded", "zigzagged"


@writes("caltech101")
def caltech101(root: Path) -> Classes:
    folder = root / "caltech101" / "101_ObjectCategories"
    photo(folder / "BACKGROUND_Google" / "image_0001.jpg", 20, "train")
    for label, category in enumerate(["Faces_easy", "accordion"]):
        for number in (1, 2):
            photo(folder / category / f"image_{number:04d}.jpg", label, "train")
    return "Faces easy", "accordion"


@writes("caltech256")
def caltech256(root: Path) -> Classes:
    folder = root / "caltech256" / "256_ObjectCategories"
    categories = ["001.ak47", "002.american-flag", "003.faces-easy-101", "004.clutter"]
    for label, category in enumerate(categories):
        for number in (1, 2):
            photo(folder / category / f"{label + 1:03d}_{number:04d}.jpg", label, "train")
    text(folder / categories[1] / "RENAME2", ["a script that was left in the archive"])
    return "ak47", "american flag", "faces easy", "clutter"


@writes("gtsrb")
def gtsrb(root: Path) -> Classes:
    folder = root / "gtsrb"
    for label in (0, 1, 2):
        sign = folder / "GTSRB" / "Training" / f"{label:05d}"
        for number in (0, 1):
            photo(sign / f"00000_{number:05d}.ppm", label, "train")
        text(sign / f"GT-{label:05d}.csv", ["Filename;Width;Height;Roi.X1;ClassId"])
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate([2, 0, 1]):
        photo(folder / "GTSRB/Final_Test/Images" / f"{number:05d}.ppm", label, "test")
        lines.append(f"{number:05d}.ppm;53;54;6;5;48;49;{label}")
    text(folder / "GT-final_test.csv", lines)
    return "speed limit 20 km/h", "speed limit 30 km/h", "speed limit 50 km/h"


@writes("rendered_sst2")
def rendered_sst2(root: Path) -> Classes:
    for folder, split in {"train": "train", "valid": "val", "test": "test"}.items():
        for label, name in enumerate(["negative", "positive"]):
            photo(root / "rendered-sst2" / folder / name / "1.png", label, split)
    return "negative", "positive"


@writes("sun397")
def sun397(root: Path) -> Classes:
    folder = root / "SUN397"
    names = ["a/abbey", "a/airplane_cabin", "a/apse/indoor"]
    text(folder / "ClassName.txt", (f"/{name}" for name in names))
    for label, name in enumerate(names):
        for letters in ("zkx", "abc", "mno"):
            photo(folder / name / f"sun_{letters}{label}.jpg", label, "train")
    return "abbey", "airplane cabin", "apse, indoor"


@writes("country211")
def country211(root: Path) -> Classes:
    for folder, split in {"train": "train", "valid": "val", "test": "test"}.items():
        for label, code in enumerate(["AD", "AE"]):
            photo(root / "country211" / folder / code / f"{label}.jpg", label, split)
    return "AD", "AE"

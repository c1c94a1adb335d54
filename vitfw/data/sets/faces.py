"""Faces: FER2013's expressions and Labeled Faces in the Wild."""

import csv
from collections import Counter
from pathlib import Path

import torch
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from vitfw.data.images import ArrayImages, Split
from vitfw.data.sets.dataset import (
    OTHERS,
    Dataset,
    DatasetFacts,
    SplitName,
    photographs,
    torchvision_files,
)
from vitfw.errors import ConfigError

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER2013_USAGE = {"val": "PublicTest", "test": "PrivateTest"}
FER2013_PAGE = (
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition"
    "-challenge"
)
LFW_IMAGES_A_PERSON = 10


def read_fer2013(root: Path, split: SplitName, download: bool) -> Split:
    """The competition's public test images are validation, its private ones test.

    Raises:
        ConfigError: the files are not there, or are those without labels of the test images.
    """
    part = "train" if split == "train" else "test"  # torchvision's test is public and private
    try:
        samples = datasets.FER2013(str(root), part)._samples
    except RuntimeError as error:
        raise ConfigError(
            f"FER2013 cannot be downloaded without an account: looked for fer2013.csv or "
            f"icml_face_data.csv in {root / 'fer2013'}: not there or not intact. Put one there by "
            f"hand, from {FER2013_PAGE}"
        ) from error
    if part == "test":
        usage = fer2013_test_usage(root / "fer2013")
        wanted = FER2013_USAGE[split]
        samples = [sample for sample, use in zip(samples, usage, strict=True) if use == wanted]
    images = torch.stack([image for image, _ in samples])
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return Split(ArrayImages(images[:, None], labels), EXPRESSIONS)


def fer2013_test_usage(folder: Path) -> list[str]:
    """`PublicTest` or `PrivateTest` of every test image, in the order of the file."""
    for name in ("fer2013.csv", "icml_face_data.csv"):  # torchvision's precedence
        if (folder / name).exists():
            with open(folder / name, newline="") as file:
                rows = csv.DictReader(file, skipinitialspace=True)
                return [row["Usage"] for row in rows if row["Usage"] != "Training"]
    raise ConfigError(
        f"FER2013: {folder / 'test.csv'} has no labels; put fer2013.csv or icml_face_data.csv "
        f"beside it, from {FER2013_PAGE}"
    )


def lfw(root: str, download: bool) -> datasets.LFWPeople:
    """All people of the set; where `download` is set, an archive placed by hand is unpacked.

    Raises:
        ConfigError: the archive or a list is not there; nobody serves them any more.
    """
    try:
        found = datasets.LFWPeople(root, split="10fold", image_set="funneled")
    except RuntimeError as error:
        raise ConfigError(
            "Labeled Faces in the Wild can no longer be downloaded: looked for lfw-funneled.tgz, "
            f"people.txt and lfw-names.txt in {Path(root) / 'lfw-py'}: not there or not intact. "
            "Put the original files there by hand"
        ) from error
    images = Path(found.images_dir)
    if not images.is_dir():
        if not download:
            raise FileNotFoundError(f"{images} does not exist")
        extract_archive(str(images.parent / found.filename))
    return found


def lfw_people(found: datasets.LFWPeople) -> list[int]:
    """torchvision's numbers of the people with enough images to be learned and tested."""
    counts = Counter(found.targets)
    return sorted(person for person, count in counts.items() if count >= LFW_IMAGES_A_PERSON)


def lfw_files(found: datasets.LFWPeople) -> list[tuple[str, int]]:
    """Paths and labels; people are numbered in the order of lfw-names.txt."""
    number = {person: label for label, person in enumerate(lfw_people(found))}
    listed = zip(found.data, found.targets, strict=True)
    return [(path, number[person]) for path, person in listed if person in number]


def lfw_names(found: datasets.LFWPeople) -> list[str]:
    names = {person: name for name, person in found.class_to_idx.items()}
    return [names[person] for person in lfw_people(found)]


SETS: dict[str, Dataset] = {
    "fer2013": Dataset(
        DatasetFacts(
            title="FER2013 facial expressions",
            classes=EXPRESSIONS,
            num_classes=7,
            channels=1,
            native_size=48,
            mean=(0.5077,),
            std=(0.2550,),
            statistics=OTHERS,
            hflip=0.5,
            shift=4,
            splits={"train": 28_709, "val": 3589, "test": 3589},
            download_mb=301,
            licence="none stated; Kaggle's competition rules",
            source="Goodfellow et al. 2013",
            note="by hand: fer2013/fer2013.csv or icml_face_data.csv from Kaggle, below data.root",
        ),
        read_fer2013,
    ),
    "lfw": Dataset(
        photographs(
            title="Labeled Faces in the Wild, people with ten images or more",
            num_classes=158,
            native_size=250,
            same_size=True,
            shift=16,
            splits={"train": 4324},
            download_mb=243,
            licence="none stated; for research",
            source="Huang, Ramesh, Berg and Learned-Miller 2007",
            note=(
                "by hand: lfw-py/ with lfw-funneled.tgz, people.txt and lfw-names.txt, below "
                "data.root. The official splits have no person in common and serve verification; "
                "5,591 of the 5,749 people have fewer than ten images and are left out"
            ),
        ),
        torchvision_files(
            "lfw",
            lfw,
            {"train": {}},
            "lfw-py",
            files=lfw_files,
            classes=lfw_names,
            placed=("lfw-py/*.tgz", "lfw-py/*.txt"),
        ),
    ),
}

"""Hundreds of thousands of images and more: Places365, iNaturalist and CelebA."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torchvision import datasets

from vitfw.data.sets.dataset import (
    Dataset,
    SplitName,
    in_subfolder,
    photographs,
    spaced,
    torchvision_files,
)

ONE_ARCHIVE = "training and validation images are one archive; a fixed share of it is the test set"
HIDDEN = "classes are numbers within a group, as the competition hid the names of the species"
NO_LABELS = "the published validation set is the test set; the published test set has no labels"


def places(root: str, split: str, small: bool, download: bool, loader: Callable[[str], Any]) -> Any:
    """torchvision's, which is content with the lists of files where there are no images.

    Raises:
        FileNotFoundError: there are none.
    """
    found = datasets.Places365(root, split=split, small=small, download=download, loader=loader)
    if not Path(found.images_dir).is_dir():
        raise FileNotFoundError(f"{found.images_dir} not found")
    return found


def places_classes(found: datasets.Places365) -> tuple[str, ...]:
    """`/b/bazaar/outdoor` → `bazaar, outdoor`, in the order of the labels."""
    names = sorted(found.class_to_idx, key=found.class_to_idx.__getitem__)
    return spaced(name.split("/", 2)[2] for name in names)


def places365(name: str, small: bool) -> Dataset:
    return Dataset(
        photographs(
            title="Places365-Standard scenes" + (", 256 × 256" if small else ""),
            num_classes=365,
            native_size=256 if small else 224,
            same_size=small,
            splits={"train": 1_803_460, "test": 36_500},
            download_mb=24_500 if small else 107_000,
            licence="non-commercial research and education",
            source="Zhou et al. 2017",
            note=NO_LABELS,
        ),
        in_subfolder(
            "places365",
            ("*places365*.t*",),
            torchvision_files(
                name,
                places,
                {
                    "train": {"split": "train-standard", "small": small},
                    "test": {"split": "val", "small": small},
                },
                "",
                classes=places_classes,
                family="places365",
                placed=("*places365*.txt",),
            ),
        ),
    )


def species(folders: Iterable[str]) -> Iterator[str]:
    """`00000_Animalia_…_Lumbricus_terrestris` (2021) → `Lumbricus terrestris`,
    `Aves/Acanthis cabaret` (2017) → `Acanthis cabaret`, `Aves/3007` (2018, 2019) → `Aves 3007`.
    """
    for folder in folders:
        above, _, name = folder.rpartition("/")
        if not above:
            yield " ".join(name.split("_")[6:])
        else:
            yield f"{above} {name}" if name.isdigit() else name


def inaturalist(
    name: str,
    year: int,
    num_classes: int,
    versions: Mapping[SplitName, str],
    splits: Mapping[str, int],
    download_mb: int,
    note: str,
    title: str = "",
) -> Dataset:
    return Dataset(
        photographs(
            title=title or f"iNaturalist {year} species",
            num_classes=num_classes,
            splits=splits,
            download_mb=download_mb,
            licence="non-commercial research and education; images are not to be passed on",
            source="Van Horn et al. 2018" if year < 2021 else "Van Horn et al. 2021",
            note=note,
        ),
        in_subfolder(
            "inaturalist",
            versions.values(),
            torchvision_files(
                name,
                datasets.INaturalist,
                {split: {"version": version} for split, version in versions.items()},
                "",
                classes=lambda found: species(found.all_categories),
                family="inaturalist",
            ),
        ),
    )


def smiles(found: datasets.CelebA) -> Iterator[tuple[Path, int]]:
    folder = Path(found.root) / found.base_folder / "img_align_celeba"
    labels = found.attr[:, found.attr_names.index("Smiling")].tolist()
    return ((folder / name, label) for name, label in zip(found.filename, labels, strict=True))


SETS: dict[str, Dataset] = {
    "places365": places365("places365", small=True),
    "places365_large": places365("places365_large", small=False),
    "inaturalist_2017": inaturalist(
        "inaturalist_2017",
        2017,
        5089,
        {"train": "2017"},
        {"train": 675_170},
        186_000,
        note=ONE_ARCHIVE,
    ),
    "inaturalist_2018": inaturalist(
        "inaturalist_2018",
        2018,
        8142,
        {"train": "2018"},
        {"train": 461_939},
        120_000,
        note=f"{ONE_ARCHIVE}; {HIDDEN}",
    ),
    "inaturalist_2019": inaturalist(
        "inaturalist_2019",
        2019,
        1010,
        {"train": "2019"},
        {"train": 268_243},
        74_000,
        note=f"{ONE_ARCHIVE}; {HIDDEN}",
    ),
    "inaturalist_2021": inaturalist(
        "inaturalist_2021",
        2021,
        10_000,
        {"train": "2021_train", "test": "2021_valid"},
        {"train": 2_686_843, "test": 100_000},
        232_400,
        note=NO_LABELS,
    ),
    "inaturalist_2021_mini": inaturalist(
        "inaturalist_2021_mini",
        2021,
        10_000,
        {"train": "2021_train_mini", "test": "2021_valid"},
        {"train": 500_000, "test": 100_000},
        50_400,
        title="iNaturalist 2021 species, 50 images each",
        note=NO_LABELS,
    ),
    "celeba": Dataset(
        photographs(
            title="CelebA: is the person smiling?",
            classes=("not smiling", "smiling"),
            num_classes=2,
            splits={"train": 162_770, "val": 19_867, "test": 19_962},
            download_mb=1490,
            licence="non-commercial research",
            source="Liu et al. 2015",
            note="one of its 40 attributes, Smiling; aligned images of 178 × 218; the download "
            "from Google Drive needs gdown and may be refused for the day",
            extra="datasets",
        ),
        torchvision_files(
            "celeba",
            datasets.CelebA,
            {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
            "celeba",
            files=smiles,
            classes=lambda found: ("not smiling", "smiling"),
        ),
    ),
}

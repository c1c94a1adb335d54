"""As on_disk_files.py, the sets of vitfw/data/sets/imagenet.py and large.py."""

from pathlib import Path

from on_disk_files import Classes, photo, text, writes

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def synset_folders(root: Path, synsets: list[str]) -> None:
    for folder, split in {"train": "train", "val": "test"}.items():
        for label, synset in enumerate(synsets):
            photo(root / folder / synset / f"{synset}_{split}.JPEG", label, split)


@writes("imagenette")
def imagenette(root: Path, folder: str = "imagenette2") -> Classes:
    synset_folders(root / folder, list(IMAGENETTE))
    return tuple(IMAGENETTE.values())


@writes("imagenette_320")
def imagenette_320(root: Path) -> Classes:
    return imagenette(root, "imagenette2-320")


@writes("imagenette_160")
def imagenette_160(root: Path) -> Classes:
    return imagenette(root, "imagenette2-160")


@writes("imagenet")
def imagenet(root: Path) -> Classes:
    """Unpacked by hand, two synsets of it."""
    synset_folders(root / "imagenet", ["n01440764", "n01443537"])
    return "n01440764", "n01443537"


@writes("places365")
def places365(root: Path, size: str = "256") -> Classes:
    folder = root / "places365"
    names = ["/b/bazaar/outdoor", "/a/art_gallery"]
    text(folder / "categories_places365.txt", [f"{name} {i}" for i, name in enumerate(names)])
    train, val = [], []
    for label, name in enumerate(names):
        train.append(f"{name}/00000001.jpg {label}")
        val.append(f"Places365_val_0000000{label + 1}.jpg {label}")
        photo(folder / f"data_{size}_standard{name}/00000001.jpg", label, "train")
        photo(folder / f"val_{size}/Places365_val_0000000{label + 1}.jpg", label, "test")
    text(folder / "places365_train_standard.txt", train)
    text(folder / "places365_val.txt", val)
    return "bazaar, outdoor", "art gallery"


@writes("places365_large")
def places365_large(root: Path) -> Classes:
    return places365(root, "large")


def inaturalist_folders(folder: Path, names: list[str], split: str) -> None:
    for label, name in enumerate(names):
        for image in ("fe12", "0a34"):
            photo(folder / name / f"{image}{label}.jpg", label, split)


@writes("inaturalist_2017")
def inaturalist_2017(root: Path) -> Classes:
    names = ["Aves/Acanthis cabaret", "Aves/Zenaida asiatica", "Fungi/Amanita muscaria"]
    inaturalist_folders(root / "inaturalist" / "2017", names, "train")
    return "Acanthis cabaret", "Zenaida asiatica", "Amanita muscaria"


@writes("inaturalist_2018")
def inaturalist_2018(root: Path, version: str = "2018") -> Classes:
    inaturalist_folders(root / "inaturalist" / version, ["Fungi/0", "Aves/1", "Aves/2"], "train")
    return "Fungi 0", "Aves 1", "Aves 2"


@writes("inaturalist_2019")
def inaturalist_2019(root: Path) -> Classes:
    return inaturalist_2018(root, "2019")


@writes("inaturalist_2021")
def inaturalist_2021(root: Path, train: str = "2021_train") -> Classes:
    names = [
        "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
        "00001_Fungi_Basidiomycota_Agaricomycetes_Agaricales_Amanitaceae_Amanita_muscaria",
    ]
    inaturalist_folders(root / "inaturalist" / train, names, "train")
    inaturalist_folders(root / "inaturalist" / "2021_valid", names, "test")
    return "Lumbricus terrestris", "Amanita muscaria"


@writes("inaturalist_2021_mini")
def inaturalist_2021_mini(root: Path) -> Classes:
    return inaturalist_2021(root, "2021_train_mini")


@writes("celeba")
def celeba(root: Path) -> Classes:
    folder = root / "celeba"
    splits = ["train", "val", "test"]
    images = [(f"{n:06d}.jpg", n % 2, splits[n // 3]) for n in range(9)]
    for name, label, split in images:
        photo(folder / "img_align_celeba" / name, label, split)
    text(
        folder / "list_eval_partition.txt",
        [f"{name} {splits.index(split)}" for name, _, split in images],
    )
    rows = [f"{name} -1  {2 * label - 1:2d}  1" for name, label, _ in images]
    text(folder / "list_attr_celeba.txt", ["9", "Bald Smiling Young", *rows])
    text(folder / "identity_CelebA.txt", [f"{name} 1" for name, *_ in images])
    for file, columns in {"bbox": "x_1 y_1 width height", "landmarks_align": "eye_x eye_y"}.items():
        rows = [f"{name} {' '.join('7' for _ in columns.split())}" for name, *_ in images]
        text(folder / f"list_{file}_celeba.txt", ["9", columns, *rows])
    return "not smiling", "smiling"

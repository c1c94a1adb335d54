"""Data sets of the Hugging Face hub, or in one of their formats in a local folder.

The library `datasets` finds, downloads and caches them; images are left encoded, for worker
processes to decode as any others. Needs the optional dependency `datasets`.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vitfw.data.images import EncodedImages, Split
from vitfw.data.reading.csv_file import SPLITS, sorted_labels
from vitfw.data.sets.dataset import SplitName
from vitfw.data.transforms import UnreadableImage
from vitfw.errors import ConfigError, nearest
from vitfw.progress_bar import fetching

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = SPLITS | {"dev": "val"}
USUAL_IMAGES, USUAL_LABELS = ("image", "img"), ("label", "labels")


class HubImages(EncodedImages):
    """Rows of a table with one column of encoded images, and their labels [N] int64.

    The table is a memory-mapped file: worker processes share it, forked or spawned.
    """

    def __init__(self, table: "Dataset", column: str, rows: Tensor, labels: Tensor, title: str):
        super().__init__(labels)
        self.table = table
        self.column = column
        self.rows = rows
        self.title = title

    def subset(self, index: Tensor) -> "HubImages":
        return HubImages(self.table, self.column, self.rows[index], self.labels[index], self.title)

    def open(self, i: int) -> str | BinaryIO:
        """The bytes of row i, or the path that stands there.

        Raises:
            UnreadableImage: the row has neither.
        """
        cell = self.table[int(self.rows[i])][self.column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise UnreadableImage(f"cannot read {self.name(i)}: there is no image")
        return cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])

    def name(self, i: int) -> str:
        return f"{self.title}, row {int(self.rows[i])}"


def read_hub(
    address: str, columns: Sequence[str] | None = None, cache: Path | None = None
) -> dict[SplitName, Split]:
    """The splits of `USER/NAME`, `USER/NAME:CONFIG` or a folder.

    "train", and "val" and "test" where they are there with labels; a lone validation split is the
    test set, as with folders of images. `columns` are the image's and the label's; without it,
    the one column of images and the one of classes. `cache` is where downloads go, by default
    where the library keeps them.

    Raises:
        ConfigError: the library is missing, nothing is found, a column is missing or one of
            several must be chosen, or a label of another split does not occur in training.
    """
    tables: dict[SplitName, Dataset] = {}
    for name, table in load(address, cache).items():
        if name in NAMES and len(table):
            tables.setdefault(NAMES[name], table)
    if "train" not in tables:
        raise ConfigError(f"data.root={address}: it has no split 'train' with images in it")
    image, label = find_columns(address, tables["train"], columns)
    for split, table in tables.items():
        missing = {image, label} - set(table.column_names)
        if missing:
            raise ConfigError(f"data.root={address}: the {split} split has no column {missing}")
    values = {split: np.asarray(table[label][:]) for split, table in tables.items()}
    for split in [s for s in tables if s != "train"]:
        if values[split].dtype.kind in "if" and (values[split] == -1).all():
            del tables[split]  # the hub's way to keep the answers of a test set back
    if "val" in tables and "test" not in tables:
        tables["test"], values["test"] = tables.pop("val"), values["val"]
    classes, number = class_numbers(tables["train"].features[label], values["train"])
    splits: dict[SplitName, Split] = {}
    for split, table in tables.items():
        labels = numbered(values[split], number, f"data.root={address}, {split} split")
        encoded = encoded_images(table, image)
        images = HubImages(encoded, image, torch.arange(len(table)), labels, f"{address} {split}")
        splits[split] = Split(images, classes)
    return splits


def load(address: str, cache: Path | None) -> "dict[str, Dataset]":
    """The tables of all splits by name, as the library has them."""
    try:
        import datasets  # slow to import, and an optional dependency
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"data=huggingface needs {error.name}: pip install 'vitfw[datasets]'"
        ) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder = Path(address).expanduser()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            found: Any = datasets.load_from_disk(str(folder))
        else:
            name, _, config = address.partition(":")
            where = (str(folder), None) if folder.exists() else (name, config or None)
            with fetching(address):
                found = datasets.load_dataset(*where, cache_dir=str(cache) if cache else None)
    except Exception as error:  # the library lets through what its many readers raise
        reasons = [" ".join(str(e).split()) for e in (error, error.__cause__) if e is not None]
        raise ConfigError(
            f"data.root={address}: cannot be loaded as a Hugging Face data set "
            f"({'; '.join(r for r in reasons if r) or type(error).__name__}). It should be "
            "USER/NAME or USER/NAME:CONFIG of the hub, or a local folder"
        ) from error
    if isinstance(found, datasets.Dataset):
        return {"train": found}
    return {str(name): table for name, table in found.items()}


def find_columns(address: str, table: "Dataset", columns: Sequence[str] | None) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    from datasets import ClassLabel, Image

    if columns is not None:
        if len(columns) != 2:
            raise ConfigError(
                f"data.columns={list(columns)} must be two: of the image and of the label; "
                "data.columns=[image,label], say"
            )
        for column in columns:
            if column not in table.features:
                raise ConfigError(
                    f"data.root={address} has no column {column!r}, only "
                    f"{', '.join(table.column_names)}{nearest(column, table.column_names)}"
                )
        return columns[0], columns[1]

    def only(kind: str, candidates: list[str], usual: tuple[str, ...]) -> str:
        chosen = candidates if len(candidates) == 1 else [c for c in usual if c in candidates]
        if not chosen:
            raise ConfigError(
                f"data.root={address}: which column holds the {kind}? It has "
                f"{', '.join(table.column_names)}; say with data.columns=[IMAGE,LABEL]"
            )
        return chosen[0]

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    image = only("images", images, USUAL_IMAGES)
    return image, only("labels", labels or list(features), USUAL_LABELS)


def class_numbers(feature: Any, values: np.ndarray) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names of the classes, and the number of each value of the column."""
    if hasattr(feature, "names"):  # a ClassLabel
        return tuple(feature.names), {i: i for i in range(len(feature.names))}
    values = np.asarray([value for value in values.tolist() if value is not None])
    by_name = {str(value): value for value in np.unique(values).tolist()}
    classes = sorted_labels(by_name)
    return classes, {by_name[name]: i for i, name in enumerate(classes)}


def numbered(values: np.ndarray, number: dict[Any, int], where: str) -> Tensor:
    """Labels [N] int64."""
    listed = values.tolist()
    unknown = [i for i, value in enumerate(listed) if value not in number]
    if unknown:
        raise ConfigError(
            f"{where}: row {unknown[0]} has the label {listed[unknown[0]]!r}, which is not among "
            f"the {len(number)} classes of the training images"
        )
    return torch.tensor([number[value] for value in listed], dtype=torch.int64)


def encoded_images(table: "Dataset", column: str) -> "Dataset":
    """The one column, its cells {bytes, path}."""
    from datasets import Image

    try:
        encoded: Any = table.select_columns([column]).cast_column(column, Image(decode=False))
        return encoded
    except Exception as error:  # pyarrow's and the library's own
        raise ConfigError(
            f"data.columns: {column!r} holds no images but {table.features[column]}"
        ) from error

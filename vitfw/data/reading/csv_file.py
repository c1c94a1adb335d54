"""Images listed in CSV files: a path and a label a row.

`root` is one file, or a folder with `train.csv` and, where they exist, `val.csv` and `test.csv`.
Paths are absolute, or relative to the folder of the file. The first row names the columns: `path`
and `label`, or others that are given; a column `split` of train, val and test divides one file.
A lone `val` is the test set, as with folders of images.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vitfw.data.images import FileImages, Split
from vitfw.data.sets.dataset import SplitName
from vitfw.errors import ConfigError, nearest

COLUMNS = ("path", "label")
SPLIT_COLUMN = "split"
SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class Row(NamedTuple):
    path: str
    label: str


def read_csv(root: Path, columns: Sequence[str] | None = None) -> dict[SplitName, Split]:
    """The splits: "train", and "val" and "test" where they are given.

    Raises:
        ConfigError: a file or a column is missing, a cell or a split is empty, or a label of
            another split does not occur in training.
    """
    rows = _rows(root, columns)
    classes = _classes(rows)
    known = {name: number for number, name in enumerate(classes)}
    splits: dict[SplitName, Split] = {}
    for name, listed in rows.items():
        unknown = sorted({row.label for row in listed} - set(known))
        if unknown:
            raise ConfigError(
                f"data.root={root}: the class {unknown[0]!r} is in the {name} split, but no "
                f"training image has it{nearest(unknown[0], known)}"
            )
        images = FileImages.of([row.path for row in listed], [known[row.label] for row in listed])
        splits[name] = Split(images, classes)
    return splits


def csv_classes(root: Path, columns: Sequence[str] | None = None) -> tuple[str, ...]:
    """The different labels of the training images, sorted; whole numbers by their value.

    Raises:
        ConfigError: as `read_csv`.
    """
    return _classes(_rows(root, columns))


def _classes(rows: dict[SplitName, list[Row]]) -> tuple[str, ...]:
    return sorted_labels({row.label for row in rows["train"]})


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """By value where all are whole numbers, else by name."""
    names = list(labels)
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _rows(root: Path, columns: Sequence[str] | None) -> dict[SplitName, list[Row]]:
    wanted = tuple(columns or COLUMNS)
    if len(wanted) != 2:
        raise ConfigError(
            f"data.columns={list(wanted)} must be two: of the path and of the label; "
            "data.columns=[path,label], say"
        )
    rows: dict[SplitName, list[Row]] = {}
    if root.is_dir():
        names: tuple[SplitName, ...] = ("train", "val", "test")
        for name in names:
            file = root / f"{name}.csv"
            if name == "train" or file.exists():
                rows[name] = [row for _, row in _read(file, wanted)]
                if not rows[name]:
                    raise ConfigError(f"{file} has no rows below the names of its columns")
    else:
        for split, row in _read(root, wanted):
            rows.setdefault(split, []).append(row)
        if "train" not in rows:
            raise ConfigError(f"{root} has no rows of training images")
    if "val" in rows and "test" not in rows:
        rows["test"] = rows.pop("val")
    return rows


def _read(file: Path, columns: tuple[str, ...]) -> Iterable[tuple[SplitName, Row]]:
    """(split, row) for each row; all are "train" where the file has no column `split`."""
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
            table = csv.DictReader(opened, skipinitialspace=True)
            header = table.fieldnames
            if not header:
                raise ConfigError(f"{file} is empty; its first row should be {','.join(columns)}")
            for column in columns:
                if column not in header:
                    raise ConfigError(
                        f"{file} has no column {column!r}, only {', '.join(map(repr, header))}"
                        f"{nearest(column, header)}; say which with data.columns=[PATH,LABEL]"
                    )
            for cells in table:
                where = f"{file}, line {table.line_num}"
                path, label = ((cells[column] or "").strip() for column in columns)
                if not path or not label:
                    empty = columns[1] if path else columns[0]
                    raise ConfigError(f"{where}: the column {empty!r} is empty")
                yield (
                    _split_of(cells.get(SPLIT_COLUMN, "train"), where),
                    Row(str(file.parent / path), label),
                )
    except csv.Error as error:
        raise ConfigError(f"{file} is not a CSV file: {error}") from error
    except OSError as error:
        expected = f"; expected {file.parent}/train.csv" if file.name == "train.csv" else ""
        raise ConfigError(
            f"data.root: {file} cannot be read: {error.strerror}{expected}. It should be a CSV "
            f"file whose first row is {','.join(columns)}, or a folder that holds train.csv"
        ) from error


def _split_of(word: str | None, where: str) -> SplitName:
    split = SPLITS.get((word or "").strip().lower())
    if split is None:
        raise ConfigError(
            f"{where}: {word!r} is no split; the column {SPLIT_COLUMN!r} holds train, val or test"
        )
    return split

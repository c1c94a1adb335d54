"""From the name of a data set to the images of its splits."""

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from vitfw.data.catalog import DATASETS, facts_of
from vitfw.data.images import Split
from vitfw.data.reading.csv_file import csv_classes, read_csv
from vitfw.data.reading.fake import make_fake
from vitfw.data.reading.hub_dataset import read_hub
from vitfw.data.reading.image_folder import class_names, read_folder
from vitfw.data.sets.dataset import SplitName
from vitfw.data.splits import check_labels, stratified_split
from vitfw.errors import ConfigError

TEST_SHARE, TEST_SEED = 0.1, 0  # fixed: no setting moves an image from test to training


class Source:
    """A data set by name: `image_folder`, `csv`, `huggingface`, `fake`, or one of the catalogue.

    `official` are the splits that it comes with. Where "test" is not among them, `read("test")`
    gives a fixed stratified tenth of the training images, and `read("train")` the others.

    Raises:
        ConfigError: the data are missing, or not what they should be; says what would do.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        download: bool = True,
        columns: Sequence[str] | None = None,
        num_classes: int = 10,
        channels: int = 3,
        native_size: int = 32,
        num_images: int = 1024,
    ):
        self.name = name
        self.root = Path(root).expanduser()
        self.download = download
        self.columns = None if columns is None else tuple(columns)
        self._address = str(root)
        self._fake = (num_classes, channels, native_size, num_images)
        self._kept: dict[SplitName, Split] = {}

    @cached_property
    def _found(self) -> dict[SplitName, Split]:
        """The splits of the user's own data."""
        if self.name == "image_folder":
            return read_folder(self.root)
        if self.name == "csv":
            return read_csv(self.root, self.columns)
        return read_hub(self._address, self.columns)

    @property
    def official(self) -> tuple[str, ...]:
        if self.name == "fake":
            return ("train", "test")
        if self.name in DATASETS:
            return tuple(DATASETS[self.name].facts.splits)
        return tuple(self._found)

    def fetch(self) -> None:
        """Download what is missing of all official splits.

        Test images are opened to see that they are there, and not kept.
        """
        if self.name not in DATASETS or not facts_of(self.name).download_mb:
            return
        for split in self.official:
            found = self._read_official(split)
            if split != "test":
                self._kept[split] = found

    def forget(self) -> None:
        """Let go of what `fetch` has kept and nobody asked for."""
        self._kept.clear()

    def read(self, split: SplitName) -> Split | None:
        """The images of a split and the names of the classes; None where there is no such split."""
        if split in self.official:
            found = self._kept.pop(split, None) or self._read_official(split)
        elif split != "test":
            return None
        else:
            found = self._read_official("train")
        if "test" not in self.official and split in ("train", "test"):
            kept, held_out = stratified_split(found.images.labels, TEST_SHARE, TEST_SEED)
            chosen = held_out if split == "test" else kept
            found = Split(found.images.subset(chosen), found.classes)
        return found

    def _read_official(self, split: SplitName) -> Split:
        if self.name == "fake":
            return make_fake(*self._fake, split)
        if self.name not in DATASETS:
            return self._found[split]
        dataset = DATASETS[self.name]
        found = dataset.read(self.root, split, self.download)
        classes = tuple(found.classes) or dataset.facts.classes
        classes = classes or tuple(str(i) for i in range(dataset.facts.num_classes))
        if not len(found.images):
            raise ConfigError(f"{dataset.facts.title}: its {split} split in {self.root} is empty")
        check_labels(found.images.labels, len(classes), f"{self.name}, {split}")
        return Split(found.images, classes)


def count_classes(name: str, root: str, columns: Sequence[str] | None = None) -> int | None:
    """How many classes a data set has, before it is read; None where the user has to say.

    Raises:
        ConfigError: there is no such data set, or nothing at `root`.
    """
    if name == "image_folder":
        return len(class_names(root))
    if name == "csv":
        return len(csv_classes(Path(root).expanduser(), columns))
    if name == "huggingface":
        return len(_hub_classes(root, None if columns is None else tuple(columns)))
    return facts_of(name).num_classes or None


@cache  # a config is resolved many times, and this reads the table
def _hub_classes(root: str, columns: tuple[str, ...] | None) -> tuple[str, ...]:
    return next(iter(read_hub(root, columns).values())).classes

"""From a name to splits: the official ones, those carved out of training, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, DatasetDict, Features, Image
from datasets import Dataset as HubDataset
from pictures import fill, picture

from vitfw.data import catalog
from vitfw.data.catalog import CATALOG
from vitfw.data.images import ArrayImages, Split
from vitfw.data.reading import sources
from vitfw.data.reading.sources import Source, count_classes
from vitfw.data.sets.dataset import Dataset
from vitfw.errors import ConfigError


def arrays(count: int, first: int = 0, classes: int = 4, names: tuple[str, ...] = ()) -> Split:
    """Images [count, 1, 2, 2] whose pixels say which one it is."""
    numbers = torch.arange(first, first + count)
    images = numbers[:, None, None, None].expand(count, 1, 2, 2).to(torch.uint8)
    return Split(ArrayImages(images, torch.arange(count) % classes), names)


@pytest.fixture
def made_up(monkeypatch):
    """A catalogue entry of our own: give its splits; what was asked of its reader comes back."""

    def enter(splits: dict[str, Split], **facts) -> list[tuple[Path, str, bool]]:
        asked = []

        def read(root: Path, split: str, download: bool) -> Split:
            asked.append((root, split, download))
            return splits[split]

        known = {"num_classes": 4, "classes": (), "download_mb": 0, **facts}
        known["splits"] = {name: len(split.images) for name, split in splits.items()}
        entry = Dataset(replace(CATALOG["digits"], title="Made up", **known), read)
        monkeypatch.setitem(catalog.DATASETS, "made_up", entry)
        monkeypatch.setitem(catalog.CATALOG, "made_up", entry.facts)
        return asked

    return enter


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    assert isinstance(split.images, ArrayImages)
    return split.images.images[:, 0, 0, 0].tolist()


# which splits


def test_official_splits_are_given_as_they_are(made_up):
    made_up({"train": arrays(40), "val": arrays(8, 100), "test": arrays(12, 200)})
    source = Source("made_up", "nowhere")
    assert source.official == ("train", "val", "test")
    assert numbers(source.read("train")) == list(range(40))
    assert numbers(source.read("val")) == list(range(100, 108))
    assert numbers(source.read("test")) == list(range(200, 212))


def test_without_an_official_test_a_stratified_tenth_of_training_is_held_out(made_up):
    made_up({"train": arrays(80)})
    train, test = (Source("made_up", "nowhere").read(split) for split in ("train", "test"))
    assert sorted(numbers(train) + numbers(test)) == list(range(80))
    assert test is not None and test.images.labels.bincount().tolist() == [2] * 4
    assert train is not None and train.images.labels.bincount().tolist() == [18] * 4


def test_the_tenth_is_the_same_every_time(made_up):
    made_up({"train": arrays(80)})
    first, second = (numbers(Source("made_up", "nowhere").read("test")) for _ in range(2))
    assert first == second


def test_an_official_validation_set_stays_where_only_the_test_is_missing(made_up):
    made_up({"train": arrays(80), "val": arrays(8, 100)})
    source = Source("made_up", "nowhere")
    assert numbers(source.read("val")) == list(range(100, 108))
    assert len(numbers(source.read("train"))) == 72
    assert max(numbers(source.read("test"))) < 80


def test_there_is_no_validation_set_where_none_is_official(made_up):
    made_up({"train": arrays(80), "test": arrays(8)})
    assert Source("made_up", "nowhere").read("val") is None


@pytest.mark.parametrize("name", ["image_folder", "csv", "huggingface"])
def test_data_of_ones_own_are_found_with_their_splits(tmp_path, name):
    root = written(tmp_path, name)
    source = Source(name, root)
    assert sorted(source.official) == ["test", "train"]
    train, test = source.read("train"), source.read("test")
    assert train is not None and test is not None
    assert (len(train.images), len(test.images)) == (6, 4)
    assert train.classes == test.classes == ("ant", "bee")
    assert source.read("val") is None
    assert count_classes(name, str(root)) == 2


def written(root: Path, name: str) -> Path:
    """Six training and four test images of two classes, in the form that `data=name` reads."""
    for part, count in (("train", 3), ("test", 2)):
        for label in ("ant", "bee"):
            fill(root / "pictures" / part / label, count)
    if name == "image_folder":
        return root / "pictures"
    if name == "csv":
        paths = sorted((root / "pictures").rglob("*.jpg"))
        rows = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in paths]
        (root / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
        return root / "list.csv"
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee"])})
    parts = {}
    for part, count in (("train", 6), ("test", 4)):
        images = [picture(20, 10, i) for i in range(count)]
        rows = {"image": images, "label": [i % 2 for i in range(count)]}
        parts[part] = HubDataset.from_dict(rows, features)
    DatasetDict(parts).save_to_disk(root / "hub")
    return root / "hub"


def test_fake_images_are_as_asked_for():
    source = Source("fake", "nowhere", num_classes=3, channels=1, native_size=5, num_images=30)
    train = source.read("train")
    assert train is not None and isinstance(train.images, ArrayImages)
    assert train.images.images.shape == (30, 1, 5, 5)
    assert source.official == ("train", "test")


# names of classes


def test_names_of_classes_are_the_files_else_the_catalogues_else_numbers(made_up):
    names, facts = ("a", "b", "c", "d"), ("e", "f", "g", "h")
    made_up({"train": arrays(8, names=names)}, classes=facts)
    assert Source("made_up", "").read("train").classes == names
    made_up({"train": arrays(8)}, classes=facts)
    assert Source("made_up", "").read("train").classes == facts
    made_up({"train": arrays(8)})
    assert Source("made_up", "").read("train").classes == ("0", "1", "2", "3")


def test_the_number_of_classes_is_known_before_anything_is_read(made_up):
    asked = made_up({"train": arrays(8)})
    assert count_classes("made_up", "nowhere") == 4
    assert count_classes("imagenet", "nowhere") == 1000
    assert count_classes("fake", "nowhere") is None
    assert asked == []


# fetching


def test_what_is_fetched_is_read_once_and_the_test_images_not_kept(made_up):
    splits = {"train": arrays(40), "val": arrays(8), "test": arrays(12)}
    asked = made_up(splits, download_mb=5)
    source = Source("made_up", "~/there", download=True)
    source.fetch()
    assert [(split, download) for _, split, download in asked] == [
        ("train", True),
        ("val", True),
        ("test", True),
    ]
    assert {root for root, _, _ in asked} == {Path.home() / "there"}
    asked.clear()
    for split in ("train", "val"):
        source.read(split)
    assert asked == []
    source.read("test")
    assert [split for _, split, _ in asked] == ["test"]


def test_a_set_without_a_download_is_not_read_to_fetch_it(made_up):
    asked = made_up({"train": arrays(8)})
    Source("made_up", "nowhere").fetch()
    assert asked == []


def test_whether_downloads_are_allowed_reaches_the_reader(made_up):
    asked = made_up({"train": arrays(8)})
    Source("made_up", "nowhere", download=False).read("train")
    assert [download for _, _, download in asked] == [False]


# what is refused


def test_an_empty_split_is_refused_by_name(made_up):
    made_up({"train": arrays(8), "val": arrays(0)})
    with pytest.raises(ConfigError, match="Made up: its val split in .*nowhere is empty"):
        Source("made_up", "nowhere").read("val")


def test_labels_outside_the_classes_are_refused(made_up):
    made_up({"train": arrays(8, classes=5)})
    with pytest.raises(ConfigError, match="made_up, train: image 4 has the label 4"):
        Source("made_up", "nowhere").read("train")


def test_an_unknown_name_is_refused_when_classes_are_counted():
    with pytest.raises(ConfigError, match="did you mean digits"):
        count_classes("digit", "nowhere")


def test_the_share_that_is_held_out_for_the_test_is_no_setting():
    assert (sources.TEST_SHARE, sources.TEST_SEED) == (0.1, 0)

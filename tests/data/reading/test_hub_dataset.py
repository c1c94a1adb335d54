"""Hugging Face data sets, written here with the library itself and read back."""

import io
import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from vitfw.data.reading.hub_dataset import HubImages, read_hub
from vitfw.data.transforms import UnreadableImage, open_image
from vitfw.errors import ConfigError

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(PIXELS[i]).save(buffer, "png")
    return buffer.getvalue()


def table(rows, labels, feature=None, **columns):
    """A table of the pictures with numbers `rows`."""
    if feature is None:
        feature = datasets.ClassLabel(names=["cat", "dog", "eel"])
    content = {"image": [{"bytes": png(i), "path": None} for i in rows], "label": labels, **columns}
    features = {"image": datasets.Image(), "label": feature}
    features |= {name: datasets.Value("int64") for name in columns}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save(folder: Path, **splits) -> str:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


def pixels_of(images, i: int) -> np.ndarray:
    return np.asarray(open_image(images.open(i), 3))


# what is read


def test_a_saved_data_set_has_its_pixels_labels_and_class_names(tmp_path):
    address = save(tmp_path / "x", train=table([0, 1, 2], [2, 0, 1]), test=table([3], [1]))
    found = read_hub(address)
    assert set(found) == {"train", "test"}
    assert found["train"].classes == found["test"].classes == ("cat", "dog", "eel")
    assert found["train"].images.labels.tolist() == [2, 0, 1]
    assert found["train"].images.labels.dtype == torch.int64
    for i in range(3):
        assert np.array_equal(pixels_of(found["train"].images, i), PIXELS[i])
    assert np.array_equal(pixels_of(found["test"].images, 0), PIXELS[3])


def test_parquet_files_in_a_folder_are_read(tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    table([0, 1], [0, 1]).to_parquet(folder / "train-00000-of-00001.parquet")
    table([2], [2]).to_parquet(folder / "test-00000-of-00001.parquet")
    found = read_hub(str(folder), cache=tmp_path / "own-cache")
    assert found["train"].classes == ("cat", "dog", "eel")
    assert np.array_equal(pixels_of(found["test"].images, 0), PIXELS[2])
    assert (tmp_path / "own-cache").is_dir()


def test_a_folder_of_pictures_is_read(tmp_path):
    for i, name in enumerate(("train/ant/a.png", "train/bee/b.png", "test/bee/c.png")):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(png(i))
    found = read_hub(str(tmp_path / "x"), cache=tmp_path / "cache")
    assert found["train"].classes == ("ant", "bee")
    assert found["test"].images.labels.tolist() == [1]
    assert np.array_equal(pixels_of(found["test"].images, 0), PIXELS[2])


def test_a_single_table_is_training_images(tmp_path):
    table([0, 1], [0, 1]).save_to_disk(tmp_path / "x")
    assert list(read_hub(str(tmp_path / "x"))) == ["train"]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_a_lone_validation_split_is_the_test_set(tmp_path, name):
    train, other = table([0, 1], [0, 1]), table([2], [2])
    assert set(read_hub(save(tmp_path / "a", train=train, **{name: other}))) == {"train", "test"}
    three = save(tmp_path / "b", train=train, test=other, **{name: other})
    assert set(read_hub(three)) == {"train", "val", "test"}


def test_a_test_split_whose_labels_are_kept_back_is_left_out(tmp_path):
    train, val, hidden = table([0, 1], [0, 1]), table([2], [2]), table([3, 4], [-1, -1])
    found = read_hub(save(tmp_path / "x", train=train, validation=val, test=hidden))
    assert set(found) == {"train", "test"}
    assert np.array_equal(pixels_of(found["test"].images, 0), PIXELS[2])


@pytest.mark.parametrize(
    "kind, labels, classes",
    [
        ("string", ["b", "a", "b"], ("a", "b")),
        ("int64", [10, 9, 10], ("9", "10")),
        ("bool", [True, False, True], ("False", "True")),
    ],
)
def test_labels_that_are_no_classes_are_sorted(tmp_path, kind, labels, classes):
    address = save(tmp_path / "x", train=table([0, 1, 2], labels, datasets.Value(kind)))
    found = read_hub(address)["train"]
    assert found.classes == classes
    assert found.images.labels.tolist() == [1, 0, 1]


def test_columns_can_be_named(tmp_path):
    named = table([0, 1], [0, 1], fine=[7, 5]).rename_column("image", "photo")
    found = read_hub(save(tmp_path / "x", train=named), ["photo", "fine"])["train"]
    assert found.classes == ("5", "7")
    assert found.images.labels.tolist() == [1, 0]
    assert np.array_equal(pixels_of(found.images, 1), PIXELS[1])


def test_a_subset_keeps_images_labels_and_names_together(tmp_path):
    images = read_hub(save(tmp_path / "x", train=table(range(6), [0, 1, 2] * 2)))["train"].images
    part = images.subset(torch.tensor([5, 0, 3])).subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part.labels.tolist() == [0, 2]
    assert np.array_equal(pixels_of(part, 0), PIXELS[3])
    assert np.array_equal(pixels_of(part, 1), PIXELS[5])
    assert part.name(1) == f"{tmp_path / 'x'} train, row 5"


def test_a_row_without_an_image_is_unreadable_and_named(tmp_path):
    rows = table([0, 1], [0, 1]).to_dict()
    rows["image"][1] = None
    features = table([0], [0]).features
    broken = datasets.Dataset.from_dict(rows, features=features)
    images = read_hub(save(tmp_path / "x", train=broken))["train"].images
    with pytest.raises(UnreadableImage, match="train, row 1: there is no image"):
        images.open(1)


def read_in_a_process(images: HubImages, answers) -> None:
    answers.put(sum(int(pixels_of(images, i).sum()) for i in range(len(images))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_pixels(tmp_path, method):
    images = read_hub(save(tmp_path / "x", train=table(range(12), [0, 1, 2] * 4)))["train"].images
    part = images.subset(torch.arange(0, 12, 2))
    pixels_of(part, 0)  # opened here before there is a second process
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=read_in_a_process, args=(part, answers))
    worker.start()
    assert answers.get(timeout=60) == int(PIXELS[::2].astype(int).sum())
    worker.join()


def test_what_is_sent_to_a_worker_is_a_path_and_not_the_images(tmp_path):
    images = read_hub(save(tmp_path / "x", train=table([0] * 3000, [0] * 3000)))["train"].images
    sent = len(pickle.dumps(images))
    assert sent < 3000 * (8 + 8) + 10_000 < 3000 * len(png(0))


# what is said


def said_of(address: str, columns=None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_hub(address, columns)
    assert "\n" not in str(caught.value)
    assert address in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("address", ["nobody/nothing", "nobody/nothing:small"])
def test_an_unknown_name_without_a_network_is_one_line(address):
    assert "It should be USER/NAME or USER/NAME:CONFIG of the hub" in said_of(address)


def test_a_folder_of_no_known_format_is_one_line(tmp_path):
    (tmp_path / "x").mkdir()
    assert "cannot be loaded as a Hugging Face data set" in said_of(str(tmp_path / "x"))


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    address = save(tmp_path / "x", train=table([0], [0]))
    message = said_of(address, ["image", "lable"])
    assert "no column 'lable', only image, label; did you mean label?" in message
    assert "must be two" in read_error(address, ["image"])
    assert "'label' holds no images but ClassLabel" in read_error(address, ["label", "label"])


def read_error(address: str, columns) -> str:
    with pytest.raises(ConfigError) as caught:
        read_hub(address, columns)
    return str(caught.value)


def test_one_of_several_columns_has_to_be_chosen(tmp_path):
    two = table([0], [0]).rename_column("label", "coarse")
    two = two.add_column("fine", [1]).cast_column("fine", datasets.ClassLabel(num_classes=2))
    address = save(tmp_path / "x", train=two)
    assert "which column holds the labels? It has image, coarse, fine" in said_of(address)


def test_a_data_set_without_images_or_a_train_split_is_said_so(tmp_path):
    plain = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    assert "which column holds the images?" in said_of(save(tmp_path / "a", train=plain))
    assert "no split 'train'" in said_of(save(tmp_path / "b", test=table([0], [0])))


def test_a_label_that_training_lacks_is_named(tmp_path):
    text = datasets.Value("string")
    train, test = table([0, 1], ["a", "b"], text), table([2], ["c"], text)
    message = said_of(save(tmp_path / "x", train=train, test=test))
    assert "test split: row 0 has the label 'c', which is not among the 2 classes" in message


def test_without_the_library_what_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs datasets: pip install 'vitfw[datasets]'" in read_error("a/b", None)

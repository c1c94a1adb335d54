"""Folders of images: which splits are found, and what is said when none is."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitfw.data.reading.image_folder import class_names, read_folder
from vitfw.data.transforms import open_image
from vitfw.errors import ConfigError


def fill(folder: Path, count: int = 10, size: tuple[int, int] = (6, 4), suffix: str = "png"):
    """Save `count` pictures of noise, different in every folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(str(folder).encode()))
    for i in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.{suffix}")


def paths(split) -> list[Path]:
    return [Path(split.images.open(i)) for i in range(len(split.images))]


# splits


def test_a_flat_folder_is_training_images(tmp_path):
    fill(tmp_path / "cat", 20)
    fill(tmp_path / "dog", 30)
    found = read_folder(tmp_path)
    assert list(found) == ["train"]
    assert found["train"].classes == ("cat", "dog")
    assert found["train"].images.labels.bincount().tolist() == [20, 30]
    assert found["train"].images.labels.dtype == torch.int64
    assert len(set(paths(found["train"]))) == 50


def test_train_alone_is_read_like_a_flat_folder(tmp_path):
    fill(tmp_path / "flat" / "cat", 20)
    fill(tmp_path / "split" / "train" / "cat", 20)
    flat, split = read_folder(tmp_path / "flat"), read_folder(tmp_path / "split")
    assert list(flat) == list(split) == ["train"]
    assert [p.name for p in paths(flat["train"])] == [p.name for p in paths(split["train"])]


def test_a_lone_val_is_the_test_set(tmp_path):
    fill(tmp_path / "train" / "cat", 5)
    fill(tmp_path / "val" / "cat", 3)
    found = read_folder(tmp_path)
    assert {name: len(split.images) for name, split in found.items()} == {"train": 5, "test": 3}
    assert all(path.parent.parent.name == "val" for path in paths(found["test"]))


def test_train_val_and_test_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        fill(tmp_path / part / "cat", count)
    found = read_folder(tmp_path)
    assert {name: len(s.images) for name, s in found.items()} == {"train": 5, "val": 3, "test": 2}
    for part in ("train", "val", "test"):
        assert all(p.parts[-3] == part for p in paths(found[part]))


def test_files_come_in_the_same_order_every_time(tmp_path):
    fill(tmp_path / "cat", 40)
    listed = paths(read_folder(tmp_path)["train"])
    assert listed == paths(read_folder(tmp_path)["train"]) == sorted(listed)


# what counts as an image


def test_images_may_lie_deeper_in_a_class_folder(tmp_path):
    fill(tmp_path / "train" / "cat" / "a" / "b", 2)
    fill(tmp_path / "train" / "cat", 1)
    fill(tmp_path / "test" / "cat", 1)
    assert len(read_folder(tmp_path)["train"].images) == 3


def test_the_case_of_a_suffix_does_not_matter_and_other_files_are_passed_over(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part / "cat", 1, suffix="JPG")
        fill(tmp_path / part / "cat", 1, suffix="Png")
        (tmp_path / part / "cat" / "notes.txt").write_text("three cats")
        (tmp_path / part / "cat" / "._000.jpg").write_bytes(b"what macOS leaves beside a file")
    found = read_folder(tmp_path)
    assert sorted(path.name for path in paths(found["train"])) == ["000.JPG", "000.Png"]


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    for part in ("train", "test"):
        for name in ("zebra", "ant", "Moose"):
            fill(tmp_path / part / name, 2)
        (tmp_path / part / ".cache").mkdir()
    test = read_folder(tmp_path)["test"]
    assert test.classes == class_names(tmp_path) == ("Moose", "ant", "zebra")
    for path, label in zip(paths(test), test.images.labels.tolist(), strict=True):
        assert path.parent.name == test.classes[label]


def test_hidden_folders_and_folders_named_like_images_are_none(tmp_path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "cat" / ".thumbnails", 2)
    (tmp_path / "cat" / "album.jpg").mkdir()
    assert len(read_folder(tmp_path)["train"].images) == 2


def test_a_dangling_link_and_a_broken_file_are_listed_for_the_reader_to_count(tmp_path):
    fill(tmp_path / "cat", 1)
    (tmp_path / "cat" / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "cat" / "empty.jpg").touch()
    names = [path.name for path in paths(read_folder(tmp_path)["train"])]
    assert names == ["000.png", "empty.jpg", "link.jpg"]


def test_names_of_any_characters_can_be_opened(tmp_path):
    fill(tmp_path / "cat", 1)
    names = ["\u732b.png", "two\nlines.png", os.fsdecode(b"latin-\xe9.png"), "x" * 200 + ".png"]
    for name in names:
        (tmp_path / "cat" / name).write_bytes((tmp_path / "cat" / "000.png").read_bytes())
    found = read_folder(tmp_path)["train"]
    assert {p.name for p in paths(found)} == {"000.png", *names}
    assert all(open_image(path, 3).size == (4, 6) for path in paths(found))


def test_a_class_folder_may_be_a_link(tmp_path):
    fill(tmp_path / "elsewhere", 3)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(read_folder(tmp_path / "root")["train"].images) == 3


# what is said


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root=.*nowhere is not a folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("inner", ["", "train"])
def test_a_root_without_class_folders_says_what_was_expected(tmp_path, inner):
    fill(tmp_path / inner, 2)
    with pytest.raises(ConfigError, match=rf"{inner} has no class folders; .*/CLASS/image\.jpg"):
        read_folder(tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_differ_from_the_training_images_are_listed(tmp_path, part):
    fill(tmp_path / "train" / "cat", 2)
    fill(tmp_path / "train" / "dog", 2)
    fill(tmp_path / part / "dog", 2)
    fill(tmp_path / part / "cow", 2)
    with pytest.raises(ConfigError, match=rf"{part} and .*missing \['cat'\], extra \['cow'\]"):
        read_folder(tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    fill(tmp_path / "cat", 2)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "readme.txt").touch()
    with pytest.raises(ConfigError, match="class 'dog' has no images in .*dog; add some or remove"):
        read_folder(tmp_path)


def test_of_many_classes_that_differ_the_first_are_listed(tmp_path):
    for i in range(20):
        fill(tmp_path / "train" / f"c{i:02}", 1)
    fill(tmp_path / "test" / "c00", 1)
    with pytest.raises(ConfigError, match=r"missing \['c01', .*'c05'\] and 14 more, extra none"):
        read_folder(tmp_path)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_split_with_no_images_is_named(tmp_path, part):
    for name in ("train", "val", "test"):
        fill(tmp_path / name / "cat", 1)
    (tmp_path / part / "cat" / "000.png").unlink()
    with pytest.raises(ConfigError, match=rf"class 'cat' has no images in .*{part}/cat"):
        read_folder(tmp_path)

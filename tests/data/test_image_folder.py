"""Folders of images: which splits are found, and what is said when none is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitfw.data.batch_augment import BatchAugment, crop_boxes
from vitfw.data.counter_rng import sample_keys
from vitfw.data.image_folder import FolderDataset, class_names, read_image_folder
from vitfw.data.transforms import UnreadableImage
from vitfw.errors import ConfigError


def fill(folder: Path, count: int = 10, size: tuple[int, int] = (6, 4), suffix: str = "png"):
    """Save `count` pictures of noise, different in every folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(str(folder).encode()))
    for i in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.{suffix}")


def names(images) -> set[str]:
    return {str(path) for path in images.paths}


# splits


def test_a_flat_folder_gives_a_stratified_tenth_to_test(tmp_path):
    fill(tmp_path / "cat", 20)
    fill(tmp_path / "dog", 30)
    found = read_image_folder(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.train.labels.bincount().tolist() == [18, 27]
    assert found.test.labels.bincount().tolist() == [2, 3]
    assert found.val is None
    assert not names(found.train) & names(found.test)
    assert len(names(found.train) | names(found.test)) == 50


def test_train_alone_is_split_like_a_flat_folder(tmp_path):
    fill(tmp_path / "flat" / "cat", 20)
    fill(tmp_path / "split" / "train" / "cat", 20)
    flat = read_image_folder(tmp_path / "flat")
    split = read_image_folder(tmp_path / "split")
    assert [p.name for p in flat.test.paths] == [p.name for p in split.test.paths]


def test_a_lone_val_is_the_test_set_and_leaves_all_of_train_to_train(tmp_path):
    fill(tmp_path / "train" / "cat", 5)
    fill(tmp_path / "val" / "cat", 3)
    found = read_image_folder(tmp_path)
    assert len(found.train) == 5
    assert found.val is None
    assert all(path.parent.parent.name == "val" for path in found.test.paths)


def test_train_val_and_test_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        fill(tmp_path / part / "cat", count)
    found = read_image_folder(tmp_path)
    assert (len(found.train), len(found.val), len(found.test)) == (5, 3, 2)
    for part in ("train", "val", "test"):
        assert all(p.parts[-3] == part for p in getattr(found, part).paths)


def test_the_test_images_of_a_flat_folder_are_the_same_every_time(tmp_path):
    fill(tmp_path / "cat", 40)
    first, again = (names(read_image_folder(tmp_path).test) for _ in range(2))
    assert first == again and len(first) == 4


# what counts as an image


def test_images_may_lie_deeper_in_a_class_folder(tmp_path):
    fill(tmp_path / "train" / "cat" / "a" / "b", 2)
    fill(tmp_path / "train" / "cat", 1)
    fill(tmp_path / "test" / "cat", 1)
    assert len(read_image_folder(tmp_path).train) == 3


def test_the_case_of_a_suffix_does_not_matter_and_other_files_are_passed_over(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part / "cat", 1, suffix="JPG")
        fill(tmp_path / part / "cat", 1, suffix="Png")
        (tmp_path / part / "cat" / "notes.txt").write_text("three cats")
        (tmp_path / part / "cat" / "._000.jpg").write_bytes(b"what macOS leaves beside a file")
    found = read_image_folder(tmp_path)
    assert sorted(path.name for path in found.train.paths) == ["000.JPG", "000.Png"]


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    for part in ("train", "test"):
        for name in ("zebra", "ant", "Moose"):
            fill(tmp_path / part / name, 2)
        (tmp_path / part / ".cache").mkdir()
    found = read_image_folder(tmp_path)
    assert found.classes == class_names(tmp_path) == ("Moose", "ant", "zebra")
    for path, label in zip(found.test.paths, found.test.labels.tolist(), strict=True):
        assert path.parent.name == found.classes[label]


def test_a_subset_keeps_paths_and_labels_together(tmp_path):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            fill(tmp_path / part / name, 3)
    part = read_image_folder(tmp_path).train.subset(torch.tensor([5, 0]))
    assert [p.parent.name for p in part.paths] == ["bee", "ant"]
    assert part.labels.tolist() == [1, 0]


# what is said


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root=.*nowhere is not a folder"):
        read_image_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("inner", ["", "train"])
def test_a_root_without_class_folders_says_what_was_expected(tmp_path, inner):
    fill(tmp_path / inner, 2)
    with pytest.raises(ConfigError, match=rf"{inner} has no class folders; .*/CLASS/image\.jpg"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_differ_from_the_training_images_are_listed(tmp_path, part):
    fill(tmp_path / "train" / "cat", 2)
    fill(tmp_path / "train" / "dog", 2)
    fill(tmp_path / part / "dog", 2)
    fill(tmp_path / part / "cow", 2)
    with pytest.raises(ConfigError, match=rf"{part} and .*missing \['cat'\], extra \['cow'\]"):
        read_image_folder(tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    fill(tmp_path / "cat", 2)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "readme.txt").touch()
    with pytest.raises(ConfigError, match="class 'dog' has no images in .*dog; add some or remove"):
        read_image_folder(tmp_path)


# FolderDataset

CROP = BatchAugment(crop_scale=(0.2, 0.8))


@pytest.fixture
def pictures(tmp_path):
    fill(tmp_path / "train" / "cat", 3, size=(40, 60))
    fill(tmp_path / "test" / "cat", 1)
    return read_image_folder(tmp_path).train


def test_a_worker_s_crop_is_a_function_of_seed_epoch_and_index(pictures):
    def crop(seed: int, epoch: int, index: int) -> torch.Tensor:
        return FolderDataset(pictures, (16, 16), 3, seed, augment=CROP)[epoch, index][0]

    first = crop(0, 0, 0)
    torch.rand(5)
    assert torch.equal(crop(0, 0, 0), first)
    others = torch.stack([first, crop(1, 0, 0), crop(0, 1, 0), crop(0, 0, 1)])
    assert len(others.unique(dim=0)) == 4


def test_a_worker_s_crop_is_pils_bicubic_resize_of_the_box_of_its_key(pictures):
    dataset = FolderDataset(pictures, (12, 20), 3, 0, augment=CROP)
    for index in range(3):
        pixels, _, key = dataset[4, index]
        assert key == sample_keys(0, 4, torch.tensor([index]))[0]
        shares = crop_boxes(key[None], CROP.crop_scale, CROP.crop_ratio)
        top, left, height, width = (share.double().item() for share in shares)
        assert 0.2 - 1e-6 <= height * width <= 0.8 + 1e-6
        with Image.open(pictures.paths[index]) as image:
            box = (left * 60, top * 40, (left + width) * 60, (top + height) * 40)
            expected = image.resize((20, 12), Image.Resampling.BICUBIC, box=box)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_without_a_crop_the_picture_is_fitted_whatever_the_epoch(pictures):
    dataset = FolderDataset(pictures, (40, 60), 3, 0, augment=BatchAugment(hflip=0.5))
    with Image.open(pictures.paths[1]) as image:
        expected = np.asarray(image)
    for epoch in (0, 1):
        pixels, label, _ = dataset[epoch, 1]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
        assert label == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_have_the_size_and_channels_asked_for(pictures, channels):
    for augment in (None, CROP):
        pixels, _, _ = FolderDataset(pictures, (9, 17), channels, 0, augment=augment)[0, 0]
        assert pixels.shape == (channels, 9, 17)
        assert pixels.dtype == torch.uint8


def test_a_broken_picture_is_named(pictures):
    pictures.paths[2].write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"002\.png"):
        FolderDataset(pictures, (8, 8), 3, 0)[0, 2]

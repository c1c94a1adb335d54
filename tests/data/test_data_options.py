"""What is trained and validated on: official splits, folds, limits, weights, statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import fill, spoil, two_classes
from PIL import Image

from vitfw.data import catalog
from vitfw.data.bad_images import TooManyBadImages
from vitfw.data.catalog import CATALOG
from vitfw.data.datamodule import ImageData
from vitfw.data.images import ArrayImages, EncodedImages, FileImages, Split
from vitfw.data.loaders import ResidentLoader, WorkerLoader
from vitfw.data.sets.dataset import Dataset
from vitfw.errors import ConfigError

SPLITS = ("train", "val", "test")


def digits(stage: str = "fit", **options) -> ImageData:
    data = ImageData("digits", **options)
    data.setup(stage)
    return data


def pixels(data: ImageData, split: str) -> set[bytes]:
    return {image.numpy().tobytes() for image in data._splits[split].images}


@pytest.fixture
def enter(monkeypatch):
    """Put a set of our own into the catalogue, as `made_up`."""

    def entered(splits: dict[str, Split], **facts) -> None:
        known = {"title": "Made up", "num_classes": 2, "classes": (), "download_mb": 0, **facts}
        known["splits"] = {name: len(split.images) for name, split in splits.items()}
        entry = Dataset(replace(CATALOG["digits"], **known), lambda root, split, _: splits[split])
        monkeypatch.setitem(catalog.DATASETS, "made_up", entry)
        monkeypatch.setitem(catalog.CATALOG, "made_up", entry.facts)

    return entered


def numbered(count: int, first: int) -> Split:
    """Grey images [count, 1, 8, 8] of one value each."""
    values = torch.arange(first, first + count).to(torch.uint8)
    images = values[:, None, None, None].expand(count, 1, 8, 8).contiguous()
    return Split(ArrayImages(images, torch.arange(count) % 2), ())


def values(data: ImageData, split: str) -> list[int]:
    return data._splits[split].images[:, 0, 0, 0].tolist()


# splits


def test_an_official_validation_set_is_validated_on_and_no_training_image_is_lost(enter):
    enter({"train": numbered(40, 0), "val": numbered(10, 100), "test": numbered(6, 200)})
    data = ImageData("made_up", val_share=0.5)
    data.setup()
    assert values(data, "train") == list(range(40))
    assert values(data, "val") == list(range(100, 110))
    assert values(data, "test") == list(range(200, 206))


def test_without_an_official_test_it_is_carved_out_of_training_alike_for_all_settings(enter):
    enter({"train": numbered(100, 0)})
    tested = set()
    for options in ({}, {"split_seed": 5}, {"fold": 1}, {"limit": 0.3}, {"seed": 9}):
        data = ImageData("made_up", **options)
        data.setup()
        parts = [set(values(data, split)) for split in SPLITS]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(parts[2]) == 10
        tested.add(frozenset(parts[2]))
    assert len(tested) == 1


def test_the_carved_test_is_the_same_without_reading_training_images_first(enter):
    enter({"train": numbered(100, 0)})
    alone, both = ImageData("made_up"), ImageData("made_up")
    alone.setup("test")
    both.setup()
    assert values(alone, "test") == values(both, "test")


def test_folds_validate_every_training_image_once():
    everything = pixels(digits(val_share=0), "train")
    seen: list[set[bytes]] = []
    for fold in range(3):
        data = digits(fold=fold, folds=3)
        train, val = pixels(data, "train"), pixels(data, "val")
        assert not train & val
        assert train | val == everything
        seen.append(val)
    assert set.union(*seen) == everything
    assert sum(map(len, seen)) == len(everything) == 1438


def test_a_fold_takes_the_place_of_an_official_validation_set(enter):
    enter({"train": numbered(40, 0), "val": numbered(10, 100), "test": numbered(6, 200)})
    data = ImageData("made_up", fold=0, folds=4)
    data.setup("fit")
    assert sorted(values(data, "train") + values(data, "val")) == list(range(40))
    assert len(values(data, "val")) == 10


@pytest.mark.parametrize("limit, count", [(0.1, 130), (100, 100), (1.0, 1295)])
def test_a_limit_keeps_part_of_training_in_proportion_and_all_of_validation(limit, count):
    whole, part = digits(), digits(limit=limit)
    assert part.count("train") == part.train_images == count
    assert pixels(part, "train") <= pixels(whole, "train")
    assert pixels(part, "val") == pixels(whole, "val")
    shares = part.class_counts("train") / count - whole.class_counts("train") / 1295
    assert shares.abs().max() < 1.5 / count


# unequal classes


@pytest.fixture
def unequal(enter):
    """90 images of one class, 10 of the other."""
    train = numbered(100, 0)
    labels = (torch.arange(100) >= 90).long()
    enter({"train": Split(ArrayImages(train.images.images, labels), ()), "test": numbered(4, 200)})
    return {"val_share": 0, "batch_size": 50}


def test_balanced_sampling_draws_rare_classes_as_often(unequal):
    data = ImageData("made_up", sampling="balanced", **unequal)
    data.setup("fit")
    loader, drawn = data.train_dataloader(), []
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        drawn += [batch.labels for batch in loader]
    counts = torch.cat(drawn).bincount()
    assert counts.sum() == 1000
    assert abs(int(counts[0]) - 500) < 4 * 250**0.5  # four standard deviations


def test_evaluation_is_not_weighted(unequal):
    data = ImageData("made_up", sampling="balanced", **{**unequal, "val_share": 0.2})
    data.setup("fit")
    labels = torch.cat([batch.labels for batch in data.val_dataloader()])
    assert labels.bincount().tolist() == [18, 2]


def test_class_weights_are_scikit_learns(unequal):
    from sklearn.utils.class_weight import compute_class_weight

    data = ImageData("made_up", class_weights="balanced", **unequal)
    data.setup("fit")
    labels = data._splits["train"].labels.numpy()
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    np.testing.assert_allclose(data.loss_weights(), expected, rtol=1e-6)


def test_class_weights_are_those_of_what_is_trained_on_and_none_without_being_asked(unequal):
    assert ImageData("made_up").loss_weights() is None
    data = ImageData("made_up", class_weights="balanced", limit=50, **unequal)
    data.setup("fit")
    assert data.class_counts("train").tolist() == [45, 5]


# statistics


def computed(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [N, C, H, W] uint8, in double precision."""
    scaled = images.astype(np.float64) / 255
    return scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))


def test_computed_statistics_are_numpys_of_the_training_images_alone():
    data = digits(stats="compute", limit=300)
    mean, std = computed(data._splits["train"].images.numpy())
    assert (data.mean, data.std) == (pytest.approx(mean), pytest.approx(std))
    assert data.mean != CATALOG["digits"].mean


def test_computed_statistics_of_files_are_those_of_the_images_a_model_is_shown(tmp_path):
    two_classes(tmp_path, 12, suffix="png", width=30, height=30)
    shared = {"root": tmp_path, "img_size": 20, "num_workers": 0, "stats": "compute"}
    data = ImageData("image_folder", **shared)
    data.setup("fit")
    train, shown = data._splits["train"], []
    for i in range(len(train)):
        image = Image.open(train.open(i))
        box = ((image.width - 30) // 2, 0, (image.width + 30) // 2, 30)
        shown.append(np.asarray(image.crop(box)).transpose(2, 0, 1))
    mean, std = computed(np.stack(shown))  # resized, they are a little smoother
    np.testing.assert_allclose(data.mean, mean, atol=0.02)
    np.testing.assert_allclose(data.std, std, atol=0.05)
    held = ImageData("image_folder", **shared, resident=True)
    held.setup("fit")
    assert (held.mean, held.std) == (data.mean, data.std)


def test_images_are_normalised_by_the_computed_statistics():
    data = digits(stats="compute", val_share=0, batch_size=1438, mean=[0.9], std=[0.9])
    images = torch.cat([data.prepare_training(batch)[0] for batch in data.train_dataloader()])
    assert abs(images.double().mean()) < 1e-5
    assert abs(images.double().std() - 1) < 1e-3


def test_statistics_that_are_computed_later_take_the_place_of_those_in_use():
    data = ImageData("digits", stats="compute", mean=[0.9], std=[0.9])
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    before, _ = data.prepare_evaluation(batch)
    data.setup("fit")
    after, _ = data.prepare_evaluation(batch)
    torch.testing.assert_close(after * data.std[0] + data.mean[0], before * 0.9 + 0.9)


# files of one size


@pytest.fixture
def stamps(enter, tmp_path):
    """A set of files that all are 8 × 8."""
    splits = {}
    for part, count in (("train", 20), ("test", 6)):
        for seed, name in enumerate(("ant", "bee")):
            fill(tmp_path / part / name, count, "png", 8, 8, seed)
        for path in (tmp_path / part).rglob("*.png"):
            Image.open(path).convert("L").crop((0, 0, 8, 8)).save(path)
        paths = sorted((tmp_path / part).rglob("*.png"))
        splits[part] = Split(FileImages.of(paths, [p.parent.name == "bee" for p in paths]), ())
    enter(splits, same_size=True, native_size=8)
    return tmp_path


def test_files_of_one_size_are_decoded_once_to_their_own_pixels(stamps):
    data = ImageData("made_up", num_workers=0, img_size=16, batch_size=4, val_share=0)
    data.setup()
    train = data._splits["train"]
    assert isinstance(train, ArrayImages)
    paths = sorted((stamps / "train").rglob("*.png"))
    expected = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert np.array_equal(train.images[:, 0].numpy(), expected)
    loader = data.train_dataloader()
    assert isinstance(loader, ResidentLoader)
    assert data.prepare_training(next(iter(loader)))[0].shape == (4, 1, 16, 16)


def test_files_of_one_size_stay_files_where_they_do_not_fit_or_are_not_to_be_held(stamps):
    for options in ({"resident_share": 0.0}, {"resident": False}):
        data = ImageData("made_up", num_workers=0, batch_size=4, **options)
        data.setup()
        assert isinstance(data._splits["train"], EncodedImages)
        assert isinstance(data.train_dataloader(), WorkerLoader)


# bad images


def test_bad_images_of_all_splits_are_kept_by_name_and_too_many_stop(tmp_path):
    images = two_classes(tmp_path, 20)
    paths = spoil(images, 0, 1)
    options = {"root": tmp_path, "num_workers": 0, "batch_size": 4, "img_size": 16, "val_share": 0}
    patient = ImageData("image_folder", max_bad_share=0.2, **options)
    patient.setup()
    for loader in (patient.train_dataloader(), patient.test_dataloader()):
        assert all(batch.images.shape[1:] == (3, 16, 16) for batch in loader)
    assert set(patient.bad_images.reasons) == set(paths)
    strict = ImageData("image_folder", **options)
    strict.setup()
    with pytest.raises(TooManyBadImages, match=r"data\.max_bad_share=0\.01"):
        for loader in (strict.train_dataloader(), strict.test_dataloader()):
            list(loader)


# memory format


def test_channels_last_is_the_memory_format_of_what_a_model_gets():
    plain, last = (digits(channels=3, channels_last=how) for how in (False, True))
    ours, theirs = (
        data.prepare_training(next(iter(data.train_dataloader())))[0] for data in (last, plain)
    )
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert theirs.is_contiguous()
    assert torch.equal(ours, theirs)


# what is refused


@pytest.mark.parametrize(
    "option, value",
    [
        ("stats", "imagenet"),
        ("stats", None),
        ("resident", "yes"),
        ("resident", None),
        ("resident", 1),
        ("resident_share", -0.1),
        ("resident_share", 1.5),
        ("sampling", "blanced"),
        ("sampling", "effective"),
        ("class_weights", "balance"),
        ("class_weights", True),
        ("max_bad_share", -1),
        ("max_bad_share", 2),
        ("crop_share", 0.0),
        ("crop_share", 1.1),
        ("fold", 5),
        ("fold", -1),
        ("fold", "first"),
        ("fold", 0.5),
        ("folds", 1),
        ("folds", 10**6),
        ("folds", 2.5),
        ("limit", 0),
        ("limit", 0.0),
        ("limit", 1.5),
        ("limit", 3),
        ("limit", 10**6),
        ("limit", "half"),
        ("limit", True),
        ("val_share", 1.0),
        ("val_share", -0.1),
        ("num_workers", -1),
        ("eval_batch_size", 0),
        ("eval_batch_size", -5),
        ("batch_size", 0),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_option(option, value):
    options = {"fold": 0} if option == "folds" else {}
    with pytest.raises(ConfigError, match=rf"data\.{option}[= ]") as caught:
        digits(**options, **{option: value})
    assert "\n" not in str(caught.value)


def test_what_would_be_right_is_said(monkeypatch):
    for option, words in (
        ("stats", "catalog, compute"),
        ("resident", "auto, true, false"),
        ("sampling", "null, balanced, sqrt"),
        ("class_weights", "null, balanced, sqrt, effective"),
    ):
        with pytest.raises(ConfigError, match=f"data.{option}=x is not one of: {words}$"):
            digits(**{option: "x"})

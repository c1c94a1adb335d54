"""The DataModule as the Trainer uses it: shapes, statistics, augmentation, what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from lightning.pytorch.plugins import Precision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode

from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.mixing import Mixing
from vitfw.data.catalog import CATALOG, DATASETS
from vitfw.data.classification_data import per_channel
from vitfw.data.datamodule import ImageData
from vitfw.data.sets.handwriting import read_digits
from vitfw.errors import ConfigError


def made(name: str = "digits", stage: str | None = None, **kwargs) -> ImageData:
    data = ImageData(name, **kwargs)
    data.prepare_data()
    data.setup(stage)
    return data


def as_trainer_runs_it(data: ImageData, training: bool, rank: int = 0, world: int = 1) -> ImageData:
    data.trainer = SimpleNamespace(
        training=training,
        global_rank=rank,
        world_size=world,
        num_training_batches=10,
        max_epochs=3,
        max_steps=-1,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=Precision(),
    )
    return data


def prepared(data: ImageData, loader) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels a loader gives, as the model gets them."""
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def save_pngs(root, part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = root / part / str(label) / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(path)


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# shapes and statistics


def test_batches_are_floats_of_the_native_size_and_int64_labels():
    data = made(batch_size=32)
    batch = next(iter(data.train_dataloader()))
    images, labels = data.on_after_batch_transfer(batch, 0)
    assert images.shape == (32, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.shape == (32,)
    assert labels.dtype == torch.int64


def test_prepared_training_digits_have_mean_0_and_deviation_1():
    data = made(val_share=0, batch_size=1438)
    images, _ = prepared(data, data.train_dataloader())
    assert len(images) == 1438
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_the_mean_and_deviation_given_are_those_used():
    data = made(mean=[0.25], std=[0.5], eval_batch_size=10)
    batch = next(iter(data.test_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    expected = TF.normalize(batch.images / 255, [0.25], [0.5])
    torch.testing.assert_close(images, expected)


@pytest.mark.parametrize("size, expected", [(16, (16, 16)), ([12, 20], (12, 20)), (5, (5, 5))])
@pytest.mark.parametrize("training", [True, False])
def test_images_are_resized_to_img_size(size, expected, training):
    data = as_trainer_runs_it(made(img_size=size), training)
    images, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape[2:] == expected


def test_resizing_in_evaluation_is_torchvisions_bicubic_of_the_bytes():
    data = made(img_size=20, mean=[0.0], std=[1.0])
    batch = next(iter(data.test_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    bicubic = TF.resize(batch.images, [20, 20], InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(images, bicubic.float() / 255, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("resident", ["auto", False])
def test_evaluation_of_arrays_keeps_the_middle_that_crop_share_says(resident):
    options = {"img_size": 16, "mean": [0.0], "std": [1.0], "num_workers": 0}
    data = made(crop_share=0.8, resident=resident, **options)
    batch = next(iter(data.test_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    larger = TF.resize(batch.images, [20, 20], InterpolationMode.BICUBIC, antialias=True)
    expected = TF.center_crop(larger, [16, 16]).float() / 255
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)


def test_a_grey_set_as_colour_has_three_equal_channels():
    data = made(channels=3)
    images, _ = prepared(data, data.test_dataloader())
    assert images.shape == (359, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_colour_set_as_grey_has_one_channel_and_the_mean_statistics():
    data = made("fake", num_classes=3, channels=1, num_images=40, batch_size=4)
    assert data.mean == (0.5,)
    assert next(iter(data.train_dataloader())).images.shape == (4, 1, 32, 32)
    assert per_channel("mean", CATALOG["cifar10"].mean, 1) == (pytest.approx(0.47337, abs=1e-5),)


def test_statistics_of_the_wrong_length_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"data\.std has 2 values, but images have 1 channels"):
        ImageData("digits", std=[0.1, 0.2])


# splits


def test_validation_is_split_off_training_and_neither_contains_a_test_image():
    data = made(split_seed=3)
    train, val, test = (as_set(data._splits[part].images) for part in ("train", "val", "test"))
    theirs = as_set(torch.from_numpy(np.rint(load_digits().images * 255 / 16).astype(np.uint8)))
    assert len(train) + len(val) + len(test) == len(theirs) == 1797  # all digits are different
    assert train | val | test == theirs


def test_validation_is_a_stratified_share_of_training(tmp_path):
    data = made(val_share=0.2)
    everything = read_digits(tmp_path, "train", False).images.labels.bincount()
    assert (data.class_counts("val") - 0.2 * everything).abs().max() <= 0.5
    assert torch.equal(data.class_counts("val") + data.class_counts("train"), everything)


def test_validation_does_not_move_with_the_seed_but_with_split_seed():
    first, other_seed, other_split = (
        as_set(made(**seeds)._splits["val"].images)
        for seeds in ({}, {"seed": 1}, {"split_seed": 1})
    )
    assert first == other_seed != other_split


def test_the_order_of_training_moves_with_the_seed():
    first, again, other = (
        next(iter(made(seed=seed).train_dataloader())).images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit_reads_no_test_image_and_test_no_training_image(monkeypatch):
    asked = []
    watched = replace(DATASETS["digits"], read=lambda *a: asked.append(a[1]) or read_digits(*a))
    monkeypatch.setitem(DATASETS, "digits", watched)
    data = ImageData("digits")
    data.setup("fit")
    data.setup("validate")
    assert asked == ["train"]
    with pytest.raises(RuntimeError, match="setup"):
        data.test_dataloader()
    data.setup("test")
    assert asked == ["train", "test"]
    alone = ImageData("digits")
    alone.setup("test")
    assert asked == ["train", "test", "test"]
    with pytest.raises(RuntimeError, match="setup"):
        alone.train_dataloader()


# some of the classes


def test_every_split_has_the_chosen_classes_only_in_the_order_given():
    data = made(only_classes=[7, "3", 5])
    assert (data.classes, data.num_classes) == (("7", "3", "5"), 3)
    theirs = load_digits()
    pixels = torch.from_numpy(np.rint(theirs.images * 255 / 16).astype(np.uint8))
    number_of = {
        image.numpy().tobytes(): int(n) for image, n in zip(pixels, theirs.target, strict=True)
    }
    seen = 0
    for split in ("train", "val", "test"):
        found = data.images(split)
        shown = [number_of[image.numpy().tobytes()] for image in found.images]
        assert shown == [(7, 3, 5)[label] for label in found.labels.tolist()]
        assert set(shown) == {7, 3, 5}
        seen += len(shown)
    assert seen == np.isin(theirs.target, [3, 5, 7]).sum()


def test_a_test_image_of_a_kept_class_was_one_before():
    whole, some = made(), made(only_classes=[1, 2])
    labels = whole.images("test").labels
    assert torch.equal(
        some.images("test").images, whole.images("test").images[(labels == 1) | (labels == 2)]
    )


def test_validation_is_a_stratified_share_of_the_classes_kept():
    data = made(only_classes=[4, 9], val_share=0.2)
    everything = data.class_counts("train") + data.class_counts("val")
    assert (data.class_counts("val") - 0.2 * everything).abs().max() <= 0.5


def test_a_folder_s_classes_are_kept_by_name(digit_folder):
    data = made("image_folder", root=digit_folder, only_classes=["8", "1"], num_classes=2)
    for split in ("train", "val", "test"):
        images = data.images(split)
        folders = [Path(images.name(i)).parent.name for i in range(len(images))]
        assert folders == [("8", "1")[label] for label in images.labels.tolist()]
        assert set(folders) == {"8", "1"}


def test_a_table_s_classes_are_kept_by_name(tmp_path, digit_folder):
    files = sorted(digit_folder.glob("train/*/*.png"))
    rows = "".join(f"{path},no {path.parent.name}\n" for path in files)
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    data = made("csv", root=tmp_path / "list.csv", only_classes=["no 6", "no 2", "no 4"])
    assert (data.classes, data.num_classes) == (("no 6", "no 2", "no 4"), 3)
    images = data.images("train")
    assert {
        (Path(images.name(i)).parent.name, label) for i, label in enumerate(images.labels.tolist())
    } == {("6", 0), ("2", 1), ("4", 2)}


@pytest.mark.parametrize("word", ["data.only_classes=[9,0,4]", "data.only_classes=['9','0','4']"])
def test_the_net_and_the_loss_follow_from_the_one_key(word):
    cfg = to_plain(compose("train", ["data=digits", word]))
    assert cfg["data"]["num_classes"] == cfg["model"]["num_classes"] == 3
    assert build({**cfg["data"], "augment": None}).classes == ("9", "0", "4")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "digits", "only_classes": [1, 12]}, r"no class has the number 12 \(the 10"),
        ({"name": "fake", "only_classes": [1, 2]}, r"give data\.num_classes=2 instead"),
        (
            {"name": "digits", "only_classes": [1, 2], "num_classes": 10},
            r"data\.only_classes has 2",
        ),
        ({"name": "omniglot", "only_classes": [1]}, r"less than two classes"),
    ],
)
def test_a_choice_of_classes_that_cannot_be_is_refused_before_anything_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        ImageData(**options)


def test_a_name_that_no_folder_has_is_refused(digit_folder):
    with pytest.raises(ConfigError, match=r"no class is called 'x' .*the 10 classes: 0 0, 1 1"):
        made("image_folder", root=digit_folder, only_classes=["1", "x"])


def test_without_a_validation_share_there_is_no_validation_loader():
    data = made(val_share=0)
    assert data.val_dataloader() == []
    assert data.train_images == 1438


def test_training_is_shuffled_and_evaluation_is_not():
    data = made(eval_batch_size=500)
    assert torch.equal(next(iter(data.test_dataloader())).labels, data._splits["test"].labels)
    train = torch.cat([batch.labels for batch in data.train_dataloader()])
    assert not torch.equal(train, data._splits["train"].labels[: len(train)])


def test_two_ranks_evaluate_every_image_once():
    counts = torch.zeros(10, dtype=torch.int64)
    for rank in range(2):
        data = as_trainer_runs_it(made(), False, rank, 2)
        _, labels = prepared(data, data.test_dataloader())
        counts += labels.bincount(minlength=10)
    assert counts.sum() == 359
    assert torch.equal(counts, data._splits["test"].labels.bincount())


def test_steps_per_epoch_is_what_each_rank_s_loader_gives():
    for world in (1, 2, 3):
        data = as_trainer_runs_it(made(batch_size=100), True, 0, world)
        assert data.steps_per_epoch(world) == len(data.train_dataloader()) == 12 // world


class Recorder(L.LightningModule):
    """Keeps the batches it is given and learns nothing."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def training_step(self, batch, _):
        self.seen.append(batch[0])
        self.labels.append(batch[1])

    def configure_optimizers(self):
        return None


class SteppingRecorder(Recorder):
    """The same, with optimizer steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = True
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        super().training_step(batch, _)
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def recorded(folder, data: ImageData, recorder: Recorder | None = None, **options) -> Recorder:
    """What a model is given in a real training."""
    recorder = recorder or Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(recorder, datamodule=data)
    return recorder


@pytest.mark.filterwarnings("ignore")
def test_under_a_real_trainer_every_epoch_has_its_own_order_and_augmentation(tmp_path):
    options = {"val_share": 0, "batch_size": 400, "augment": BatchAugment(shift=1)}
    recorder = recorded(tmp_path, ImageData("digits", **options), max_epochs=2)

    data = made(**options)
    expected = []
    for epoch in (0, 1):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        expected += [data.prepare_training(batch)[0] for batch in loader]
    assert len(recorder.seen) == len(expected) == 6
    for ours, theirs in zip(recorder.seen, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(expected[0], expected[3])


# augmentation


def test_only_training_is_augmented():
    data = made(augment=BatchAugment(hflip=1.0), eval_batch_size=400)
    batch = next(iter(data.val_dataloader()))
    plain, _ = as_trainer_runs_it(data, False).on_after_batch_transfer(batch, 0)
    mirrored, _ = as_trainer_runs_it(data, True).on_after_batch_transfer(batch, 0)
    assert torch.equal(plain.flip(-1), mirrored)
    data.trainer = None  # outside a Trainer, as in `predict` and `explain`
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)


def test_what_is_erased_is_0_after_normalisation():
    data = as_trainer_runs_it(made(augment=BatchAugment(erase=1.0)), True)
    batch = next(iter(data.train_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    # No grey value of digits is the mean itself, so zeros come from erasing alone.
    assert (images == 0).flatten(1).any(dim=1).float().mean() > 0.8


def test_what_is_no_batch_of_the_loaders_passes_through():
    data = ImageData("digits")
    batch = (torch.zeros(1), torch.zeros(1))
    assert data.on_after_batch_transfer(batch, 0) is batch


# mixing


def mixed(off_share: float = 0.0, **options) -> ImageData:
    mixing = Mixing(mixup=5.0, off_share=off_share)
    return ImageData("digits", batch_size=200, augment=BatchAugment(mixing=mixing), **options)


def soft_steps(recorder: Recorder) -> list[bool]:
    return [labels.dim() == 2 for labels in recorder.labels]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "off_share, limits, steps, soft",
    [
        (0.5, {"max_epochs": 2}, 12, 6),
        (0.25, {"max_epochs": 2}, 12, 9),
        (0.0, {"max_epochs": 1}, 6, 6),
        (1.0, {"max_epochs": 1}, 6, 0),
        (0.5, {"max_epochs": 4, "limit_train_batches": 2}, 8, 4),
        (0.5, {"max_epochs": 2, "limit_train_batches": 0.5}, 6, 3),
    ],
    ids=str,
)
def test_mixing_is_off_for_the_last_share_of_a_real_training(
    tmp_path, off_share, limits, steps, soft
):
    found = soft_steps(recorded(tmp_path, mixed(off_share), **limits, limit_val_batches=0))
    assert found == [True] * soft + [False] * (steps - soft)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "gathered, steps, batches", [(4, 3, 10), (4, 4, 12), (5, 3, 11), (8, 2, 12)]
)
def test_mixing_is_off_in_time_where_an_epochs_last_step_is_short(
    tmp_path, gathered, steps, batches
):
    """Six batches make an epoch; those that are left at its end are a step, too."""
    limits = {"max_epochs": -1, "max_steps": steps, "accumulate_grad_batches": gathered}
    recorder = recorded(tmp_path, mixed(0.5), SteppingRecorder(), **limits, limit_val_batches=0)
    soft = (batches + 1) // 2
    assert soft_steps(recorder) == [True] * soft + [False] * (batches - soft)


@pytest.mark.parametrize(
    "limits, total",
    [
        ({"max_epochs": 4}, 24),
        ({"max_epochs": -1, "max_steps": 20}, 20),
        ({"max_epochs": 4, "max_steps": 5, "accumulate_grad_batches": 3}, 15),
        ({"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 4}, 28),
        ({"max_epochs": 1, "max_steps": 12}, 6),
        ({"max_epochs": 10, "num_training_batches": 2}, 20),
    ],
    ids=str,
)
def test_progress_is_the_share_of_all_the_batches_that_will_be_taken(limits, total):
    data = as_trainer_runs_it(mixed(), True)
    data.setup("fit")
    assert data.steps_per_epoch() == 6
    vars(data.trainer).update({"num_training_batches": 6, **limits})
    taken = data.trainer.num_training_batches
    for step, before in ((0, 0), (1, 1), (6, taken), (7, taken + 1)):
        assert data._progress(step) == before / total


def test_soft_targets_are_shares_of_two_classes():
    data = as_trainer_runs_it(made(augment=BatchAugment(mixing=Mixing(mixup=5.0))), True)
    images, targets = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (128, 1, 8, 8)
    assert targets.shape == (128, 10)
    assert torch.allclose(targets.sum(1), torch.ones(128))
    assert ((targets > 0).sum(1) <= 2).all()
    assert len(targets[targets > 0].unique()) <= 4  # λ, 1 − λ, both together


def test_validation_and_previews_of_it_are_not_mixed():
    data = as_trainer_runs_it(made(augment=BatchAugment(mixing=Mixing(mixup=5.0))), False)
    _, labels = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert labels.dtype == torch.int64
    assert data.preview_batch("val", 5)[1].shape == (5,)
    assert data.preview_batch("train", 5)[1].shape == (5, 10)


# image folders


@pytest.fixture
def digit_folder(tmp_path):
    for part, split in (("train", "train"), ("val", "test")):
        digits = read_digits(tmp_path, split, False).images
        keep = torch.arange(0, len(digits), 10)
        save_pngs(tmp_path, part, digits.images[keep], digits.labels[keep])
    return tmp_path


def test_evaluation_of_a_folder_is_that_of_the_array_it_was_written_from_to_the_bit(digit_folder):
    facts = CATALOG["digits"]
    files = made(
        "image_folder",
        "test",
        root=digit_folder,
        num_classes=10,
        channels=1,
        img_size=8,
        mean=facts.mean,
        std=facts.std,
        num_workers=0,
    )
    array = made("digits", "test")
    theirs, their_labels = prepared(array, array.test_dataloader())
    keep = torch.arange(0, len(theirs), 10)
    keep = keep[their_labels[keep].argsort(stable=True)]  # files are in order of class, then name
    ours, labels = prepared(files, files.test_dataloader())
    assert torch.equal(labels, their_labels[keep])
    assert torch.equal(ours, theirs[keep])


def test_a_folder_s_classes_and_splits_are_found(digit_folder):
    data = made("image_folder", root=str(digit_folder), num_classes=10, val_share=0.2)
    assert data.classes == tuple("0123456789")
    assert data.count("train") + data.count("val") == 144
    assert data.count("test") == 36
    val = data._splits["val"]
    assert {Path(val.name(i)).parts[-3] for i in range(len(val))} == {"train"}


def test_a_folder_s_number_of_classes_need_not_be_given(digit_folder):
    assert made("image_folder", root=digit_folder).num_classes == 10


def test_a_worker_s_crop_is_not_cropped_again_on_the_device(digit_folder):
    data = made(
        "image_folder",
        root=digit_folder,
        num_classes=10,
        img_size=16,
        batch_size=8,
        num_workers=0,
        augment=BatchAugment(crop_scale=(0.1, 0.3)),
        mean=[0.0],
        std=[1.0],
    )
    as_trainer_runs_it(data, True)
    batch = next(iter(data.train_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(images, batch.images.float() / 255, rtol=1e-6, atol=1e-6)


def test_evaluation_of_a_folder_is_not_cropped_at_random(digit_folder):
    options = {"root": digit_folder, "num_classes": 10, "img_size": 8, "num_workers": 0}
    plain = made("image_folder", **options)
    cropping = made("image_folder", **options, augment=BatchAugment(crop_scale=(0.1, 0.3)))
    for loader in ("val_dataloader", "test_dataloader"):
        ours, theirs = (prepared(data, getattr(data, loader)())[0] for data in (cropping, plain))
        assert torch.equal(ours, theirs)


def test_a_folder_with_another_number_of_classes_is_refused(digit_folder):
    with pytest.raises(ConfigError, match=r"data\.num_classes=7, but .* holds 10 classes"):
        made("image_folder", root=digit_folder, num_classes=7)


def test_a_home_directory_s_tilde_is_understood(monkeypatch, digit_folder):
    monkeypatch.setenv("HOME", str(digit_folder.parent))
    assert made("image_folder", root=f"~/{digit_folder.name}").num_classes == 10


# what is refused


def test_a_batch_larger_than_the_set_is_refused_with_the_largest_that_fits():
    data = made(val_share=0, batch_size=5000)
    with pytest.raises(ConfigError, match=r"5000 × 1 .*1438 .*data\.batch_size=1438 or less"):
        data.steps_per_epoch()
    with pytest.raises(ConfigError, match=r"5000 × 2 .*1438 .*data\.batch_size=719 or less"):
        data.steps_per_epoch(world=2)


def test_a_number_of_classes_that_is_not_the_set_s_is_refused():
    with pytest.raises(ConfigError, match=r"data\.num_classes=100, but CIFAR-10 has 10"):
        ImageData("cifar10", num_classes=100)


def test_an_unknown_set_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean digits"):
        ImageData("digit")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_images": -1}], ids=str)
def test_sizes_below_1_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"data\.{name}=.* at least 1"):
        ImageData("fake", num_classes=3, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 12.5}, {"num_workers": "abc"}, {"split_seed": 1.5}, {"eval_batch_size": True}],
    ids=str,
)
def test_what_is_no_whole_number_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"data\.{name}=.* is not a whole number"):
        ImageData("fake", num_classes=3, **wrong)


def test_skipped_images_go_into_the_checkpoint_and_come_back():
    data = made("fake", num_classes=3)
    data.bad_images.note("train", [("a.jpg", "cannot read a.jpg: cut off")], 1000)
    again = made("fake", num_classes=3)
    again.load_state_dict(data.state_dict())
    assert again.bad_images.reasons == data.bad_images.reasons


def test_fake_images_without_a_number_of_classes_are_refused():
    with pytest.raises(ConfigError, match=r"data\.num_classes"):
        ImageData("fake")


def test_a_validation_share_of_everything_is_refused():
    with pytest.raises(ConfigError, match=r"data\.val_share 1\.0"):
        made(val_share=1.0)


# fake


def test_fake_images_have_the_size_and_number_asked_for():
    data = made("fake", num_classes=4, native_size=10, num_images=80, val_share=0.25, batch_size=20)
    assert [data.count(split) for split in ("train", "val", "test")] == [60, 20, 20]
    assert data.classes == ("class 0", "class 1", "class 2", "class 3")
    images, labels = prepared(data, data.train_dataloader())
    assert images.shape == (60, 3, 10, 10)
    assert labels.bincount().tolist() == [15] * 4


def test_rare_classes_are_not_made_up_for_twice(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.sampling=balanced .* data\.class_weights=sqrt"):
        ImageData("digits", tmp_path, sampling="balanced", class_weights="sqrt")

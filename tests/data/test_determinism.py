"""Order = f(seed, epoch), augmentation = f(seed, epoch, image): in any workers, processes, runs."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.v2 as T
from lightning.pytorch.plugins import Precision
from pictures import spoil, two_classes
from torch import Tensor

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.batch_policy import RandAugment
from vitfw.data.augment.mixing import Mixing
from vitfw.data.datamodule import ImageData

AUGMENTS = {
    "crop, policy, erasing": {
        "crop_scale": (0.3, 1.0),
        "hflip": 0.5,
        "policy": RandAugment(),
        "erase": 0.5,
        "erase_mode": "pixel",
    },
    "transforms of torchvision": {
        "crop_scale": (0.5, 1.0),
        "per_image": [T.RandomRotation(30), T.RandomPosterize(3, p=0.5)],
    },
    "three times": {"shift": 2, "jitter": 0.4, "repeats": 3},
}
SAMPLING = {"as they are": None, "weighted": "balanced"}
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    spoil(two_classes(root, 16), 3)
    return root


@pytest.fixture(params=["array", "files"])
def make(request, folder):
    """A data module of the kind, read; `rank` of `world` processes."""

    def made(rank: int = 0, world: int = 1, batch_size: int = 6, **options) -> ImageData:
        if request.param == "array":
            options = {"num_classes": 3, "native_size": 16, "num_images": 34, **options}
        else:
            options = {"root": folder, "img_size": 16, "max_bad_share": 0.1, **options}
        options = {"val_share": 0.1, "num_workers": 0, **options}
        name = "fake" if request.param == "array" else "image_folder"
        data = ImageData(name, batch_size=batch_size // world, **options)
        data.setup("fit")
        data.trainer = SimpleNamespace(
            training=True,
            global_rank=rank,
            world_size=world,
            num_training_batches=data.steps_per_epoch(world),
            max_epochs=10,
            max_steps=-1,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            precision_plugin=Precision(),
        )
        return data

    return made


def epoch_of(data: ImageData, epoch: int, loader=None) -> Batches:
    """All batches of an epoch, as the model gets them."""
    loader = loader or data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def assert_same(ours: Batches, theirs: Batches) -> None:
    assert len(ours) == len(theirs) > 0
    for (images, labels), (their_images, their_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)


def as_set(*batches: tuple[Tensor, Tensor]) -> list[bytes]:
    return sorted(
        image.numpy().tobytes() + bytes([int(label)])
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*worker processes in total")
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("augment", AUGMENTS)
def test_an_epoch_is_the_same_for_0_1_and_4_workers(make, augment, sampling):
    options = {"augment": BatchAugment(**AUGMENTS[augment]), "sampling": SAMPLING[sampling]}
    alone = epoch_of(make(resident=False, **options), 1)
    for workers in (1, 4):
        data = make(resident=False, num_workers=workers, **options)
        assert_same(epoch_of(data, 1), alone)


@pytest.mark.parametrize("make", ["array"], indirect=True)
@pytest.mark.parametrize("augment", ["crop, policy, erasing", "three times"])
def test_a_resident_array_gives_what_workers_give(make, augment):
    options = {"augment": BatchAugment(**AUGMENTS[augment])}
    ours, theirs = (epoch_of(make(resident=how, **options), 2) for how in ("auto", False))
    assert_same(ours, theirs)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("augment", AUGMENTS)
def test_two_processes_together_train_on_what_one_does_at_every_step(make, augment, sampling):
    options = {"augment": BatchAugment(**AUGMENTS[augment]), "sampling": SAMPLING[sampling]}
    alone = epoch_of(make(**options), 3)
    first, second = (epoch_of(make(rank, 2, **options), 3) for rank in (0, 1))
    assert len(alone) == len(first) == len(second) >= 4
    for whole, half, other in zip(alone, first, second, strict=True):
        assert as_set(whole) == as_set(half, other)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", AUGMENTS)
def test_after_a_restart_in_the_middle_of_an_epoch_the_rest_is_the_same(make, augment, workers):
    options = {"augment": BatchAugment(**AUGMENTS[augment]), "num_workers": workers}
    expected = epoch_of(make(**options), 2)
    killed = make(**options).train_dataloader()
    killed.sampler.set_epoch(2)
    list(islice(iter(killed), 2))
    state = killed.state_dict()

    data = make(**options)
    resumed = data.train_dataloader()
    resumed.load_state_dict(state)
    assert_same(epoch_of(data, 2, resumed), expected[2:])


def test_epochs_and_seeds_differ_in_order_and_augmentation(make):
    augment = BatchAugment(hflip=0.5)
    data, other = make(augment=augment), make(augment=augment, seed=1)
    first, second, otherwise = epoch_of(data, 0), epoch_of(data, 1), epoch_of(other, 0)
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], otherwise[0][0])
    assert as_set(*first) != as_set(*second)


# mixing


MIXING = BatchAugment(mixing=Mixing(mixup=0.8, cutmix=1.0), hflip=0.5)


def test_mixing_is_the_same_again_and_after_a_restart(make):
    expected = epoch_of(make(augment=MIXING), 1)
    assert_same(epoch_of(make(augment=MIXING), 1), expected)
    data = make(augment=MIXING)
    resumed = data.train_dataloader()
    resumed.load_state_dict({"epoch": 1, "batch": 3})
    assert_same(epoch_of(data, 1, resumed), expected[3:])


def test_mixing_differs_between_steps_epochs_seeds_and_processes(make):
    def shares(data: ImageData, epoch: int) -> list[float]:
        """λ of each batch, or 1 − λ: the largest share in images of two classes."""
        return [targets.amax(1).min().item() for _, targets in epoch_of(data, epoch)]

    mixup = BatchAugment(mixing=Mixing(mixup=5.0))
    runs = [
        shares(make(augment=mixup), 0),
        shares(make(augment=mixup), 1),
        shares(make(augment=mixup, seed=1), 0),
        shares(make(0, 2, augment=mixup), 0),
        shares(make(1, 2, augment=mixup), 0),
    ]
    mixed = [round(share, 5) for run in runs for share in run if share < 1]
    # The first of two processes mixes as a lone one does, so that its shares come twice.
    assert len(mixed) > 12
    assert len(set(mixed)) >= 0.7 * len(mixed)
    assert runs[3] != runs[4]
    assert runs[0] != runs[1] != runs[2]


# previews


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_preview_moves_nothing_of_a_training_in_progress(make, augment, workers):
    options = {"augment": BatchAugment(**AUGMENTS[augment]), "num_workers": workers}
    expected = epoch_of(make(**options), 1)
    data = make(**options)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    batches = iter(loader)
    given = [data.on_after_batch_transfer(next(batches), 0) for _ in range(2)]
    state, random = loader.state_dict(), torch.get_rng_state()
    for split in ("train", "val"):
        images, labels = data.preview_batch(split, 3)
        assert len(images) == len(labels) <= 3
    assert loader.state_dict() == state
    assert torch.equal(torch.get_rng_state(), random)
    given += [data.on_after_batch_transfer(batch, 0) for batch in batches]
    assert_same(given, expected)


def test_a_preview_shows_the_first_samples_of_training_as_the_model_sees_them(make):
    data = make(augment=BatchAugment(hflip=0.5, jitter=0.4))
    images, labels = epoch_of(data, 0)[0]
    shown, shown_labels = data.preview_batch("train", 6)
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    torch.testing.assert_close(shown, (images * std + mean).clamp(0, 1))
    assert torch.equal(shown_labels, labels)
    assert data.preview_batch("train", 10**6)[0].shape[0] <= data.train_images

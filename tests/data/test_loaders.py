"""The order of batches: complete, the same for any workers and ranks, and resumable anywhere."""

from itertools import islice, zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitfw.data.arrays import make_fake
from vitfw.data.batch_augment import BatchAugment
from vitfw.data.counter_rng import sample_keys
from vitfw.data.image_folder import FolderDataset, read_image_folder
from vitfw.data.loaders import EpochSampler, RawBatch, ResidentLoader, WorkerLoader

DATA = make_fake(5, 1, 4, 50, True)


def indices(sampler: EpochSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler.batches()]


def resident(shuffle: bool = True, batch_size: int = 8, **kwargs) -> ResidentLoader:
    return ResidentLoader(DATA, EpochSampler(len(DATA), batch_size, 0, shuffle, **kwargs))


def assert_same(ours: list[RawBatch], theirs: list[RawBatch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def folder_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for name in ("train/ant", "train/bee", "val/ant", "val/bee"):
        (root / name).mkdir(parents=True)
        for i in range(10 if "train" in name else 1):
            pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return read_image_folder(root).train


def worker_loader(images, num_workers: int, shuffle: bool = True) -> WorkerLoader:
    augment = BatchAugment(crop_scale=(0.3, 1.0)) if shuffle else None
    dataset = FolderDataset(images, (8, 8), 3, seed=0, augment=augment)
    sampler = EpochSampler(len(images), 3, 0, shuffle)
    return WorkerLoader(dataset, sampler, num_workers, pin_memory=False)


# which samples

LENGTHS = {
    "length": st.integers(1, 200),
    "batch_size": st.integers(1, 20),
    "world": st.integers(1, 5),
}


@given(**LENGTHS, epoch=st.integers(0, 5))
def test_in_training_all_batches_are_full_ranks_agree_in_number_and_share_no_sample(
    length, batch_size, world, epoch
):
    given_to = []
    for rank in range(world):
        sampler = EpochSampler(length, batch_size, 0, True, rank, world)
        sampler.set_epoch(epoch)
        batches = indices(sampler)
        assert len(batches) == len(sampler) == length // (batch_size * world)
        assert all(len(batch) == batch_size for batch in batches)
        given_to += [i for batch in batches for i in batch]
    assert len(set(given_to)) == len(given_to)
    assert length - len(given_to) < batch_size * world  # no more is dropped than must be


@given(**LENGTHS)
def test_evaluation_gives_every_sample_exactly_once_over_all_ranks(length, batch_size, world):
    given_to = []
    for rank in range(world):
        sampler = EpochSampler(length, batch_size, 0, False, rank, world)
        batches = indices(sampler)
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= batch_size for batch in batches)
        given_to += [i for batch in batches for i in batch]
    assert sorted(given_to) == list(range(length))


@pytest.mark.parametrize("world", [2, 3])
def test_resident_evaluation_over_ranks_is_the_whole_set(world):
    loaders = [resident(shuffle=False, rank=rank, world=world) for rank in range(world)]
    labels = torch.cat([batch.labels for loader in loaders for batch in loader])
    assert torch.equal(labels.bincount(), DATA.labels.bincount())
    assert len(labels) == len(DATA)


def test_two_ranks_together_train_on_the_whole_set():
    loaders = [resident(batch_size=5, rank=rank, world=2) for rank in range(2)]
    images = torch.cat([batch.images for loader in loaders for batch in loader])
    assert torch.equal(images.flatten(1).unique(dim=0), DATA.images.flatten(1).unique(dim=0))
    assert len(images) == len(DATA)


def test_evaluation_of_one_process_keeps_the_order_of_the_set():
    labels = torch.cat([batch.labels for batch in resident(shuffle=False)])
    assert torch.equal(labels, DATA.labels)


def test_ranks_take_turns_in_the_order_of_one_process():
    alone = [i for batch in indices(EpochSampler(48, 4, 0, True)) for i in batch]
    ranks = [
        [i for batch in indices(EpochSampler(48, 4, 0, True, rank, 3)) for i in batch]
        for rank in range(3)
    ]
    turns = [i for turn in zip_longest(*ranks) for i in turn]
    assert turns == alone


def test_every_epoch_has_another_order_and_the_same_order_again():
    sampler = EpochSampler(50, 8, 0, True)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(indices(sampler))
    assert orders[0] == orders[2] != orders[1]


def test_images_labels_and_keys_of_a_batch_belong_together():
    loader = resident()
    loader.sampler.set_epoch(3)
    for index, batch in zip(loader.sampler.batches(), loader, strict=True):
        assert torch.equal(batch.images, DATA.images[index])
        assert torch.equal(batch.labels, DATA.labels[index])
        assert torch.equal(batch.keys, sample_keys(0, 3, index))


# resuming


@given(stop=st.integers(0, 6), epoch=st.integers(0, 3))
def test_a_loader_resumed_in_the_middle_gives_the_remaining_batches(stop, epoch):
    whole = resident()
    whole.sampler.set_epoch(epoch)
    expected = list(whole)
    stopped = resident()
    stopped.sampler.set_epoch(epoch)
    list(islice(iter(stopped), stop))
    state = stopped.state_dict()

    resumed = resident()
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(epoch)  # as Lightning does at the start of an epoch
    assert_same(list(resumed), expected[stop:])


def test_a_resumed_loader_can_be_stopped_and_resumed_again():
    expected = list(resident())
    state = {"epoch": 0, "batch": 2}
    for _ in range(2):
        loader = resident()
        loader.load_state_dict(state)
        next(iter(loader))
        state = loader.state_dict()
    assert state == {"epoch": 0, "batch": 4}
    loader.load_state_dict(state)
    assert_same(list(loader), expected[4:])


def test_the_state_is_plain_integers_and_right_before_the_first_batch():
    assert resident().state_dict() == {"epoch": 0, "batch": 0}
    loaded = resident()
    loaded.load_state_dict({"epoch": 2, "batch": 3})
    assert loaded.state_dict() == {"epoch": 2, "batch": 3}
    assert all(type(value) is int for value in loaded.state_dict().values())


def test_a_new_epoch_starts_at_its_first_batch_even_after_resuming():
    loader = resident()
    loader.load_state_dict({"epoch": 0, "batch": 4})
    assert len(list(loader)) == 2
    loader.sampler.set_epoch(1)
    fresh = resident()
    fresh.sampler.set_epoch(1)
    assert_same(list(loader), list(fresh))


def test_the_length_is_that_of_a_whole_epoch_wherever_it_was_resumed():
    loader = resident()
    loader.load_state_dict({"epoch": 0, "batch": 4})
    assert len(loader) == len(resident()) == 6


@pytest.mark.parametrize("kind", ["resident", "workers"])
def test_an_iterator_made_before_the_epoch_is_set_reads_the_epoch_when_first_asked(
    kind, folder_images
):
    make = resident if kind == "resident" else lambda: worker_loader(folder_images, 0)
    early, fresh = make(), make()
    iterator = iter(early)
    early.sampler.set_epoch(5)
    fresh.sampler.set_epoch(5)
    assert_same(list(iterator), list(fresh))


# worker processes


def test_batches_are_the_same_for_0_1_and_2_workers_over_two_epochs(folder_images):
    loaders = [worker_loader(folder_images, workers) for workers in (0, 1, 2)]
    for epoch in (0, 1):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        alone, one, two = (list(loader) for loader in loaders)
        assert len(alone) == 6
        assert_same(alone, one)
        assert_same(alone, two)


def test_workers_that_read_ahead_do_not_move_the_place_to_resume_at(folder_images):
    expected = list(worker_loader(folder_images, 0))
    stopped = worker_loader(folder_images, 2)
    list(islice(iter(stopped), 2))  # by now the workers have been given all six
    state = stopped.state_dict()
    assert state == {"epoch": 0, "batch": 2}
    resumed = worker_loader(folder_images, 2)
    resumed.load_state_dict(state)
    assert_same(list(resumed), expected[2:])


def test_an_epoch_left_early_does_not_leak_into_the_next(folder_images):
    loader = worker_loader(folder_images, 1)
    next(iter(loader))
    loader.sampler.set_epoch(1)
    fresh = worker_loader(folder_images, 0)
    fresh.sampler.set_epoch(1)
    assert_same(list(loader), list(fresh))


def test_keys_of_folder_images_are_those_of_the_epoch(folder_images):
    loader = worker_loader(folder_images, 0)
    loader.sampler.set_epoch(3)
    for index, batch in zip(loader.sampler.batches(), loader, strict=True):
        assert torch.equal(batch.keys, sample_keys(0, 3, index))


def test_folder_images_of_a_batch_are_those_of_the_sampler(folder_images):
    loader = worker_loader(folder_images, 0, shuffle=False)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [3] * 6 + [2]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), folder_images.labels)
    assert torch.equal(torch.cat([b.keys for b in batches]), sample_keys(0, 0, torch.arange(20)))
    assert batches[0].images.shape == (3, 3, 8, 8)
    assert batches[0].images.dtype == torch.uint8

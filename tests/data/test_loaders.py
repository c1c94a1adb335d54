"""Batches of tensors and of files: the samples that were drawn, from any place in an epoch."""

from itertools import islice
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import spoil, two_classes

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.counter_rng import sample_keys
from vitfw.data.decode import Decoder
from vitfw.data.images import ArrayImages
from vitfw.data.loaders import RawBatch, ResidentLoader, WorkerLoader
from vitfw.data.reading.fake import make_fake
from vitfw.data.sampler import EpochSampler

DATA = cast(ArrayImages, make_fake(5, 1, 4, 50, "train").images)


def resident(shuffle: bool = True, batch_size: int = 8, **kwargs) -> ResidentLoader:
    return ResidentLoader(DATA, EpochSampler(len(DATA), batch_size, 0, shuffle, **kwargs))


def assert_same(ours: list[RawBatch], theirs: list[RawBatch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        assert a.step == b.step


@pytest.fixture(scope="module")
def folder_images(tmp_path_factory):
    return two_classes(tmp_path_factory.mktemp("folder"), 10, width=16, height=12, suffix="png")


def nothing_is_bad(found, of):
    raise AssertionError(found)


def worker_loader(
    images, num_workers: int, shuffle: bool = True, note_bad=nothing_is_bad
) -> WorkerLoader:
    augment = BatchAugment(crop_scale=(0.3, 1.0)) if shuffle else None
    decoder = Decoder(images, (8, 8), 3, augment=augment)
    return WorkerLoader(decoder, EpochSampler(len(images), 3, 0, shuffle), num_workers, note_bad)


# which samples


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


# steps


def test_steps_count_the_batches_of_a_process_since_the_start_of_training(folder_images):
    for loader in (resident(), worker_loader(folder_images, 0)):
        for epoch in (0, 1, 4):
            loader.sampler.set_epoch(epoch)
            assert [batch.step for batch in loader] == [6 * epoch + i for i in range(6)]


def test_steps_go_on_from_the_batch_that_was_resumed_at(folder_images):
    for loader in (resident(), worker_loader(folder_images, 0)):
        loader.load_state_dict({"epoch": 2, "batch": 4})
        assert [batch.step for batch in loader] == [16, 17]


# images that cannot be read


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_told_by_name_with_the_size_of_their_set(tmp_path, workers):
    images = two_classes(tmp_path, 6)
    paths = spoil(images, 1, 7)
    told = []
    loader = worker_loader(images, workers, False, lambda found, of: told.append((found, of)))
    batches = list(loader)
    assert [[name for name, _ in found] for found, _ in told] == [[paths[0]], [paths[1]]]
    assert all(path in found[0][1] for path, (found, _) in zip(paths, told, strict=True))
    assert [of for _, of in told] == [12, 12]
    assert [len(batch.labels) for batch in batches] == [2, 3, 2, 3]
    kept = torch.tensor([i for i in range(12) if i not in (1, 7)])
    assert torch.equal(torch.cat([batch.keys for batch in batches]), sample_keys(0, 0, kept))


def test_a_batch_of_which_nothing_can_be_read_is_passed_over(tmp_path):
    images = two_classes(tmp_path, 6)
    spoil(images, 3, 4, 5)
    loader = worker_loader(images, 0, False, lambda found, of: None)
    batches = list(loader)
    assert [batch.step for batch in batches] == [0, 2, 3]
    assert loader.state_dict() == {"epoch": 0, "batch": 4}


def test_training_batches_stay_full_where_images_are_bad(tmp_path):
    images = two_classes(tmp_path, 6)
    spoil(images, 0, 3, 5, 9)
    told = []
    loader = worker_loader(images, 0, True, lambda found, of: told.extend(found))
    assert [len(batch.labels) for batch in loader] == [3, 3, 3, 3]
    assert {name for name, _ in told} == {images.name(i) for i in (0, 3, 5, 9)}


# the random numbers of others


def test_no_loader_draws_from_the_global_random_numbers(folder_images):
    before = torch.get_rng_state()
    for loader in (resident(), worker_loader(folder_images, 0), worker_loader(folder_images, 1)):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)

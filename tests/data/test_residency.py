"""Sets held as pixels: what fits, what is decoded, and that evaluation sees the same bits."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pictures import fill, spoil, two_classes
from PIL import Image

from vitfw.data import residency
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.datamodule import ImageData
from vitfw.data.images import ArrayImages, EncodedImages
from vitfw.data.loaders import ResidentLoader, WorkerLoader
from vitfw.data.residency import MemoryShare, decode_all
from vitfw.errors import ConfigError
from vitfw.memory import total_memory

CPU = torch.device("cpu")


def nothing_is_bad(found, of):
    raise AssertionError(found)


def prepared(data: ImageData, loader) -> torch.Tensor:
    return torch.cat([data.prepare_evaluation(batch)[0] for batch in loader])


# what fits


def test_a_share_of_the_memory_is_counted_in_bytes_of_uint8(monkeypatch):
    monkeypatch.setattr(residency, "total_memory", lambda device: 4_000)
    assert MemoryShare(0.5).takes(2_000, CPU)
    assert not MemoryShare(0.5).takes(2_001, CPU)
    assert not MemoryShare(0.0).takes(1, CPU)


def test_splits_share_what_may_be_held_and_so_do_processes_of_one_machine(monkeypatch):
    monkeypatch.setattr(residency, "total_memory", lambda device: 4_000)
    share = MemoryShare(0.5)
    taken = [share.takes(size, CPU) for size in (1_500, 600, 500)]
    assert taken == [True, False, True]  # what did not fit is not counted
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not MemoryShare(0.5).takes(1_500, CPU)


def test_the_memory_of_this_machine_is_what_the_kernel_says_or_a_container_is_allowed():
    total = total_memory(CPU)
    lines = Path("/proc/meminfo").read_text().splitlines()
    installed = int(lines[0].split()[1]) * 1024
    assert 2**28 < total <= installed * 1.01


def test_a_limit_of_the_container_counts_where_it_is_less(monkeypatch):
    installed = total_memory(CPU)
    for text, expected in (("1000000\n", 1_000_000), ("max\n", None), (str(2**62), None)):
        path = SimpleNamespace(read_text=lambda t=text: t)
        monkeypatch.setattr("vitfw.memory.Path", lambda _, path=path: path)
        found = total_memory(CPU)
        assert found == expected if expected else found >= installed


# decoding all


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_the_wanted_size_are_kept_to_the_bit_and_in_order(tmp_path, workers):
    for number, name in enumerate(("ant", "bee")):
        for i in range(70):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (5, 4), 70 * number + i).save(tmp_path / name / f"{i:03}.png")
    images = two_classes(tmp_path, 0)
    held = decode_all(images, (4, 5), 1, 1.0, workers, nothing_is_bad)
    assert held.images.shape == (140, 1, 4, 5)
    assert held.images.dtype == torch.uint8
    assert held.images[:, 0, 2, 3].tolist() == list(range(140))
    assert torch.equal(held.labels, images.labels)


def test_bad_ones_are_left_out_and_told(tmp_path):
    images = two_classes(tmp_path, 40)
    paths = spoil(images, 0, 39, 79)
    told = []
    held = decode_all(
        images, (8, 8), 3, 1.0, 0, lambda found, of: told.extend((n, of) for n, _ in found)
    )
    assert told == [(path, 80) for path in paths]
    assert held.images.shape == (77, 3, 8, 8)
    assert held.labels.bincount().tolist() == [38, 39]
    whole = decode_all(images.subset(torch.tensor([1, 78])), (8, 8), 3, 1.0, 0, nothing_is_bad)
    assert torch.equal(held.images[[0, -1]], whole.images)


def test_decoding_leaves_the_global_random_numbers_alone(tmp_path):
    images = two_classes(tmp_path, 3)
    before = torch.get_rng_state()
    decode_all(images, (8, 8), 3, 1.0, 0, nothing_is_bad)
    assert torch.equal(torch.get_rng_state(), before)


# in the data module


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 12), ("test", 6)):
        for seed, name in enumerate(("ant", "bee")):
            fill(tmp_path / part / name, count, seed=seed, width=90, height=70)
    return tmp_path


def made(folder, resident, **options) -> ImageData:
    more = {"num_workers": 0, "img_size": 24, "batch_size": 5, "val_share": 0.25, **options}
    data = ImageData("image_folder", root=folder, resident=resident, **more)
    data.setup()
    return data


@pytest.mark.parametrize("crop_share", [1.0, 0.875])
@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_of_files_held_as_pixels_is_that_of_the_workers_to_the_bit(
    folder, crop_share, channels
):
    held, read = (
        made(folder, how, crop_share=crop_share, channels=channels) for how in (True, False)
    )
    for loader in ("val_dataloader", "test_dataloader"):
        ours, theirs = (prepared(data, getattr(data, loader)()) for data in (held, read))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "name, resident, kind",
    [
        ("image_folder", True, ResidentLoader),
        ("image_folder", "auto", WorkerLoader),
        ("image_folder", False, WorkerLoader),
        ("fake", True, ResidentLoader),
        ("fake", "auto", ResidentLoader),
        ("fake", False, WorkerLoader),
    ],
)
def test_resident_decides_which_loader_is_used(folder, name, resident, kind):
    fake = {"num_classes": 2, "num_images": 40} if name == "fake" else {"root": folder}
    data = ImageData(name, resident=resident, batch_size=4, num_workers=0, img_size=16, **fake)
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert type(loader) is kind
    held = ArrayImages if kind is ResidentLoader or name == "fake" else EncodedImages
    assert isinstance(data._splits["train"], held)


def test_transforms_of_torchvision_are_for_workers_and_evaluation_stays_resident():
    augment = BatchAugment(per_image=[lambda pixels: pixels])
    data = ImageData("fake", num_classes=2, num_images=40, batch_size=4, augment=augment)
    data.setup()
    assert type(data.train_dataloader()) is WorkerLoader
    assert type(data.val_dataloader()) is ResidentLoader


def test_files_that_do_not_fit_are_refused_where_they_are_to_be_held(folder, monkeypatch):
    monkeypatch.setattr(residency, "total_memory", lambda device: 42_000)
    message = r"data\.resident=true: 18 train images of 24×24 are more .* data\.resident_share=0\.4"
    with pytest.raises(ConfigError, match=message):
        made(folder, True, resident_share=0.4)
    monkeypatch.setattr(residency, "total_memory", lambda device: 100_000)
    assert made(folder, True, resident_share=1.0).count("train") == 18


def test_bad_files_are_left_out_of_what_is_held_and_counted(folder):
    for i in range(3):
        (folder / "test" / "ant" / f"{i:03}.jpg").write_bytes(b"")
    data = made(folder, True, max_bad_share=0.3)
    assert data.count("test") == 9
    assert len(data.bad_images) == 3
    assert len(prepared(data, data.test_dataloader())) == 9

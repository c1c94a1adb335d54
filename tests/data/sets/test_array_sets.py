"""Small sets read from files in their publishers' formats, and facts against those who know."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from on_disk_arrays import WRITERS
from on_disk_handwriting import idx, idx_files, of_idx_files, write_fashion_mnist
from on_disk_images import pack_cifar, write_fer2013, write_lfw
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.datasets import omniglot
from written import Written, md5, put

from vitfw.data.images import ArrayImages, FileImages, Split
from vitfw.data.sets import emnist, faces, handwriting, small_images, specialised
from vitfw.errors import ConfigError

FAMILIES = (handwriting, emnist, small_images, faces, specialised)
SETS = {name: found for family in FAMILIES for name, found in family.SETS.items()}


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def no_package(monkeypatch, tmp_path):
    monkeypatch.setattr(small_images, "DEBIAN_FASHION_MNIST", tmp_path / "no-such-package")


def decoded(split: Split, i: int) -> np.ndarray:
    """Image i of a split as an array [H, W, C] or [H, W]."""
    if isinstance(split.images, FileImages):
        with Image.open(split.images.open(i)) as image:
            return np.asarray(image)
    assert isinstance(split.images, ArrayImages)
    return split.images.images[i].numpy().transpose(1, 2, 0)


def assert_read_as_written(split: Split, written: Written) -> None:
    assert split.images.labels.dtype == torch.int64
    assert split.images.labels.tolist() == list(written.labels)
    if isinstance(split.images, FileImages):
        opened = [Path(split.images.open(i)) for i in range(len(split.images))]
        assert opened == written.images
        assert all(path.is_file() for path in opened)
    else:
        assert isinstance(split.images, ArrayImages)
        assert split.images.images.dtype == torch.uint8
        assert split.images.images.is_contiguous()
        assert np.array_equal(split.images.images.numpy(), written.images)


# ── every set ─────────────────────────────────────────────────────────────────────────────────


def test_every_set_but_scikit_learns_is_written_in_its_own_format():
    assert set(WRITERS) | {"digits"} == set(SETS)


@pytest.mark.parametrize("name", WRITERS)
def test_every_split_is_read_as_it_was_written_and_agrees_with_the_facts(monkeypatch, root, name):
    written = WRITERS[name](monkeypatch, root)
    facts = SETS[name].facts
    assert set(facts.splits) == set(written)
    for split, content in written.items():
        found = SETS[name].read(root, split, False)
        assert_read_as_written(found, content)
        assert set(found.images.labels.tolist()) == set(range(facts.num_classes))
        assert len(found.classes) == len(set(found.classes)) == facts.num_classes
        assert facts.classes in ((), found.classes)
        height, width, *channels = decoded(found, 0).shape
        assert (channels or [1]) == [facts.channels]
        assert (height == width == facts.native_size) == facts.same_size


@pytest.mark.parametrize("name", SETS)
def test_the_facts_of_a_set_are_within_their_bounds(name):
    facts = SETS[name].facts
    assert len(facts.mean) == len(facts.std) == facts.channels
    assert all(0 < value < 1 for value in facts.mean + facts.std)
    assert 0 <= facts.hflip <= 1
    assert 0 <= facts.shift < facts.native_size / 4
    assert "train" in facts.splits
    assert all(count >= facts.num_classes for count in facts.splits.values())
    assert len(set(facts.classes)) in (0, facts.num_classes)


@pytest.mark.parametrize("name", [*handwriting.SETS, *emnist.SETS, "svhn"])
def test_characters_are_not_mirrored(name):
    assert SETS[name].facts.hflip == 0


@pytest.mark.parametrize("name", WRITERS)
def test_a_set_that_is_not_there_is_one_line(root, name):
    with pytest.raises(ConfigError) as caught:
        SETS[name].read(root, "train", False)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


# ── names of classes ──────────────────────────────────────────────────────────────────────────


def test_names_of_fashion_mnist_and_kmnist_are_torchvisions():
    assert list(SETS["fashion_mnist"].facts.classes) == datasets.FashionMNIST.classes
    assert list(SETS["kmnist"].facts.classes) == datasets.KMNIST.classes


@pytest.mark.parametrize("name", ["mnist", "qmnist"])
def test_names_of_mnist_are_torchvisions_without_the_spelled_out_number(name):
    expected = [spelled.split(" - ")[0] for spelled in datasets.MNIST.classes]
    assert list(SETS[name].facts.classes) == expected


@pytest.mark.parametrize("part", ["balanced", "byclass", "bymerge", "digits", "mnist"])
def test_names_of_emnist_are_torchvisions(part):
    expected = datasets.EMNIST.classes_split_dict[part]
    assert list(SETS[f"emnist_{part}"].facts.classes) == expected


def test_names_of_emnist_letters_are_torchvisions_without_the_missing_class_0():
    assert datasets.EMNIST.classes_split_dict["letters"] == [
        "N/A",
        *SETS["emnist_letters"].facts.classes,
    ]
    assert SETS["emnist_letters"].facts.classes == tuple(string.ascii_lowercase)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "eurosat"])
def test_names_are_in_the_order_of_the_label_file_which_is_alphabetical(name):
    assert list(SETS[name].facts.classes) == sorted(SETS[name].facts.classes)


# ── MNIST's format ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keep", [0, 2, 16, -100], ids=["empty", "2 bytes", "header", "cut off"])
def test_a_truncated_idx_file_is_said_to_be_broken(monkeypatch, root, keep):
    WRITERS["mnist"](monkeypatch, root)
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="not intact"):
        SETS["mnist"].read(root, "train", False)


def test_debians_fashion_mnist_is_unpacked_to_the_originals_bytes(monkeypatch, root):
    write_fashion_mnist(monkeypatch, root)
    SETS["fashion_mnist"].read(root, "train", False)
    raw, files = root / "FashionMNIST" / "raw", idx_files()
    assert sorted(p.name for p in raw.iterdir()) == sorted(files)  # and no .part beside them
    assert all((raw / name).read_bytes() == idx(array) for name, array in files.items())


def test_debians_package_is_unpacked_once_and_never_over_what_is_there(monkeypatch, root):
    write_fashion_mnist(monkeypatch, root)
    raw, name = root / "FashionMNIST" / "raw", "train-images-idx3-ubyte"
    own = idx_files(seed=1)[name]
    put(raw / name, idx(own))
    SETS["fashion_mnist"].read(root, "train", False)
    times = {p: p.stat().st_mtime_ns for p in raw.iterdir()}
    expected = of_idx_files(idx_files() | {name: own})
    for split in ("train", "test"):
        assert_read_as_written(SETS["fashion_mnist"].read(root, split, False), expected[split])
    assert {p: p.stat().st_mtime_ns for p in raw.iterdir()} == times


@pytest.mark.parametrize("damage", ["cut off", "flipped bytes"])
def test_a_broken_package_leaves_no_half_file_behind(monkeypatch, root, damage):
    write_fashion_mnist(monkeypatch, root)
    packed = small_images.DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz"
    content = packed.read_bytes()
    half = len(content) // 2
    rest = b"" if damage == "cut off" else bytes(b ^ 255 for b in content[half:])
    packed.write_bytes(content[:half] + rest)
    with pytest.raises(ConfigError, match="fashion_mnist: "):
        SETS["fashion_mnist"].read(root, "train", False)
    left = [path.name for path in root.rglob("*")]
    assert not any("train-images" in name or "part" in name for name in left)


REAL_PACKAGE = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL_PACKAGE.is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_the_real_fashion_mnist_has_the_facts_counts_mean_and_deviation(monkeypatch, root):
    monkeypatch.setattr(small_images, "DEBIAN_FASHION_MNIST", REAL_PACKAGE)
    facts = SETS["fashion_mnist"].facts
    train, test = (SETS["fashion_mnist"].read(root, part, False) for part in ("train", "test"))
    assert facts.splits == {"train": len(train.images), "test": len(test.images)}
    assert train.images.images.shape == (60_000, 1, 28, 28)
    assert train.images.labels.bincount().tolist() == [6000] * 10
    counts = np.bincount(train.images.images.numpy().ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
    assert (round(mean, 4),) == facts.mean
    assert (round(deviation, 4),) == facts.std


# ── digits of scikit-learn ────────────────────────────────────────────────────────────────────


def digits(split: str) -> ArrayImages:
    return SETS["digits"].read(Path("nowhere"), split, False).images


def test_digits_are_scikit_learns_every_one_once():
    train, test, theirs = digits("train"), digits("test"), load_digits()
    assert SETS["digits"].facts.splits == {"train": len(train), "test": len(test)}
    assert train.images.shape[1:] == test.images.shape[1:] == (1, *theirs.images.shape[1:])

    def rows(images, labels):
        flat = np.concatenate([np.asarray(images).reshape(-1, 64), np.asarray(labels)[:, None]], 1)
        return flat[np.lexsort(flat.T)]

    images, labels = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    back_to_16 = np.rint(images.numpy() * (16 / 255))
    assert np.array_equal(rows(back_to_16, labels), rows(theirs.data, theirs.target))
    assert SETS["digits"].facts.classes == tuple(str(name) for name in theirs.target_names)


def test_the_17_grey_values_of_digits_span_0_to_255_evenly():
    assert digits("train").images.unique().tolist() == [round(i * 255 / 16) for i in range(17)]


def test_a_fifth_of_each_digit_is_test_and_always_the_same():
    once, again = digits("test"), digits("test")
    everything = torch.from_numpy(np.bincount(load_digits().target))
    assert (once.labels.bincount() - 0.2 * everything).abs().max() <= 0.5
    assert torch.equal(once.images, again.images)


def test_mean_and_deviation_of_digits_are_those_of_its_training_images():
    scaled = digits("train").images.numpy().astype(np.float64) / 255
    facts = SETS["digits"].facts
    assert (facts.mean, facts.std) == ((round(scaled.mean(), 4),), (round(scaled.std(), 4),))


# ── single sets ───────────────────────────────────────────────────────────────────────────────


def test_classes_of_omniglot_do_not_depend_on_the_order_of_the_file_system(monkeypatch, root):
    written = WRITERS["omniglot"](monkeypatch, root)
    for listing in ("list_dir", "list_files"):
        listed = getattr(omniglot, listing)
        backwards = lambda *found, listed=listed: listed(*found)[::-1]  # noqa: E731
        monkeypatch.setattr(omniglot, listing, backwards)
    assert_read_as_written(SETS["omniglot"].read(root, "train", False), written["train"])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_hand_placed_archive_is_unpacked_without_a_download(monkeypatch, root, name):
    written = pack_cifar(monkeypatch, name, root)
    for split, content in written.items():
        assert_read_as_written(SETS[name].read(root, split, False), content)


def test_a_damaged_batch_of_cifar_is_not_read(monkeypatch, root):
    WRITERS["cifar10"](monkeypatch, root)
    (root / datasets.CIFAR10.filename).unlink()
    batch = root / datasets.CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="not intact"):
        SETS["cifar10"].read(root, "train", False)


def test_both_tables_of_fer2013_are_read_alike(monkeypatch, root):
    written = write_fer2013(monkeypatch, root, "icml_face_data.csv")
    for split, content in written.items():
        assert_read_as_written(SETS["fer2013"].read(root, split, False), content)


def test_fer2013_without_labels_of_the_test_images_says_what_to_put_there(monkeypatch, root):
    table = "pixels\n" + " ".join(["0"] * 48 * 48) + "\n"
    put(root / "fer2013" / "test.csv", table.encode())
    sums = {**datasets.FER2013._RESOURCES, "test": ("test.csv", md5(table.encode()))}
    monkeypatch.setattr(datasets.FER2013, "_RESOURCES", sums)
    with pytest.raises(ConfigError, match=r"test\.csv has no labels; put fer2013\.csv or icml"):
        SETS["fer2013"].read(root, "test", False)


@pytest.mark.parametrize("part", [3, 8, 5])
def test_pcam_is_the_same_read_in_parts(monkeypatch, root, part):
    written = WRITERS["pcam"](monkeypatch, root)
    monkeypatch.setattr(specialised, "PCAM_PART", part)
    assert_read_as_written(SETS["pcam"].read(root, "train", False), written["train"])


@pytest.mark.parametrize("name", ["fer2013", "lfw"])
@pytest.mark.parametrize("download", [True, False])
def test_what_nobody_serves_is_said_to_be_put_there_by_hand(root, name, download):
    with pytest.raises(ConfigError, match=r"can(not| no longer) be downloaded.*there by hand"):
        SETS[name].read(root, "train", download)


def test_a_person_with_fewer_than_ten_images_is_no_class_of_lfw(monkeypatch, root):
    write_lfw(monkeypatch, root)
    found = SETS["lfw"].read(root, "train", False)
    assert found.classes == tuple(f"Person_{i:03}" for i in range(158))
    assert found.images.labels.bincount().min() == 10

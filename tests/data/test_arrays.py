"""Data sets in the formats they are published in, from a server on this machine."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from vitfw.cli.main import main
from vitfw.data import arrays
from vitfw.data.arrays import (
    make_fake,
    read_cifar10,
    read_cifar100,
    read_digits,
    read_fashion_mnist,
    read_mnist,
)
from vitfw.data.catalog import CATALOG
from vitfw.errors import ConfigError

NO_DOWNLOAD = "Data sets that need no download: digits, image_folder, fake"
CIFAR = {
    "cifar10": (datasets.CIFAR10, read_cifar10),
    "cifar100": (datasets.CIFAR100, read_cifar100),
}


class Server:
    """Serves a folder on 127.0.0.1 and keeps what was asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[str] = []
        self.cut_off = ""  # how, or not at all
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.asked.append(Path(self.path).name)
                if not outer.cut_off:
                    super().do_GET()
                    return
                whole = (outer.folder / Path(self.path).name).read_bytes()
                self.send_response(200)
                chunked = outer.cut_off == "in a chunk"
                size = (
                    {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": len(whole)}
                )
                for name, value in size.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if chunked:
                    self.wfile.write(f"{len(whole):x}\r\n".encode())
                self.wfile.write(whole[: len(whole) // 2])
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def neither_a_package_nor_a_proxy(monkeypatch, tmp_path):
    monkeypatch.setattr(arrays, "DEBIAN_FASHION_MNIST", tmp_path / "no-such-package")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# CIFAR: pickled dicts of bytes in a tar.gz, described at https://www.cs.toronto.edu/~kriz/cifar.html


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the `str` of Python 2, which is what the published files were made with."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_str


def python2_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")  # where numpy 1 had it


def publish_cifar(monkeypatch, server: Server, name: str) -> dict[str, dict[bytes, object]]:
    """Put a small archive in the real format on the server; the content of its files."""
    dataset, _ = CIFAR[name]
    random = np.random.default_rng(0)
    files: dict[str, dict[bytes, object]] = {}
    for file, _ in dataset.train_list + dataset.test_list:
        count = len(CATALOG[name].classes)
        rows = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = random.permutation(count).tolist()
        if name == "cifar10":
            files[file] = {b"batch_label": file.encode(), b"labels": labels, b"data": rows}
        else:
            coarse = [label // 5 for label in labels]
            files[file] = {b"fine_labels": labels, b"coarse_labels": coarse, b"data": rows}
    class_names = [c.encode() for c in CATALOG[name].classes]
    meta = {dataset.meta["filename"]: {dataset.meta["key"].encode(): class_names}}
    pickled = {file: python2_pickle(content) for file, content in (files | meta).items()}
    archive = server.folder / dataset.filename
    with tarfile.open(archive, "w:gz") as tar:
        for file, content in pickled.items():
            member = tarfile.TarInfo(f"{dataset.base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for key in ("train_list", "test_list"):
        sums = [[file, md5(pickled[file])] for file, _ in getattr(dataset, key)]
        monkeypatch.setattr(dataset, key, sums)
    meta_md5 = md5(pickled[dataset.meta["filename"]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": meta_md5})
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(dataset, "url", server.url + dataset.filename)
    return files


def expected_cifar(contents: list[dict[bytes, object]], key: bytes) -> tuple[np.ndarray, list]:
    """The page's own words: 1024 red, 1024 green, 1024 blue values a row, each row-major."""
    rows = np.concatenate([content[b"data"] for content in contents])
    planes = [rows[:, c * 1024 : (c + 1) * 1024].reshape(-1, 32, 32) for c in range(3)]
    return np.stack(planes, axis=1), [label for content in contents for label in content[key]]


@pytest.mark.parametrize("name, key", [("cifar10", b"labels"), ("cifar100", b"fine_labels")])
def test_cifar_is_downloaded_checked_unpacked_and_read(monkeypatch, server, root, name, key):
    files = publish_cifar(monkeypatch, server, name)
    dataset, read = CIFAR[name]
    for train, parts in ((True, dataset.train_list), (False, dataset.test_list)):
        found = read(root, train, True)
        images, labels = expected_cifar([files[file] for file, _ in parts], key)
        assert found.images.dtype == torch.uint8
        assert found.images.is_contiguous()
        assert np.array_equal(found.images.numpy(), images)
        assert found.labels.dtype == torch.int64
        assert found.labels.tolist() == labels
        assert len(found) == len(labels)


def test_cifar_is_downloaded_once(monkeypatch, server, root):
    publish_cifar(monkeypatch, server, "cifar10")
    read_cifar10(root, True, True)
    (root / datasets.CIFAR10.filename).unlink()
    server.asked.clear()
    read_cifar10(root, True, True)
    read_cifar10(root, False, False)
    assert server.asked == []


def test_a_hand_placed_archive_is_unpacked_without_a_download(monkeypatch, server, root):
    publish_cifar(monkeypatch, server, "cifar10")
    root.mkdir()
    archive = datasets.CIFAR10.filename
    (root / archive).write_bytes((server.folder / archive).read_bytes())
    assert len(read_cifar10(root, True, False)) == 50
    assert server.asked == []


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("damage", ["flipped bytes", "in the middle", "in a chunk"])
def test_a_damaged_download_is_refused_removed_and_the_next_try_works(
    monkeypatch, server, root, name, damage
):
    publish_cifar(monkeypatch, server, name)
    dataset, read = CIFAR[name]
    served = server.folder / dataset.filename
    whole = served.read_bytes()
    if damage == "flipped bytes":
        middle = len(whole) // 2
        served.write_bytes(whole[:middle] + bytes(b ^ 255 for b in whole[middle:]))
    else:
        server.cut_off = damage
    with pytest.raises(ConfigError, match="archive was corrupted and has been removed") as caught:
        read(root, True, True)
    assert "\n" not in str(caught.value)
    assert not (root / dataset.filename).exists()

    served.write_bytes(whole)
    server.cut_off = ""
    assert len(read(root, True, True)) == len(dataset.train_list) * len(CATALOG[name].classes)


def test_a_whole_archive_is_kept_when_it_cannot_be_unpacked(monkeypatch, server, root):
    publish_cifar(monkeypatch, server, "cifar10")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        read_cifar10(root, True, True)
    assert (root / datasets.CIFAR10.filename).exists()


def test_a_damaged_unpacked_file_is_not_read(monkeypatch, server, root):
    publish_cifar(monkeypatch, server, "cifar10")
    read_cifar10(root, True, True)
    (root / datasets.CIFAR10.filename).unlink()
    batch = root / datasets.CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="not there or not intact"):
        read_cifar10(root, True, False)


def test_python_train_py_model_vit_b16_data_cifar10(monkeypatch, server, root, tmp_path, capfd):
    """The command of the project's first line: from the archive on a server to a tested model."""
    publish_cifar(monkeypatch, server, "cifar10")
    monkeypatch.chdir(tmp_path)
    words = ["model=vit_b16", "data=cifar10", "trainer=debug", f"data.root={root}", "run_dir=r"]
    small = ["data.batch_size=2", "data.eval_batch_size=4", "trainer.limit_train_batches=1"]
    assert main(["train", *words, *small]) == 0, capfd.readouterr().err
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    assert metrics["params"] == 85_806_346  # ViT-B/16 with ten classes instead of a thousand
    assert 0.0 <= metrics["test/accuracy"] <= 1.0


# nothing there


def unreachable(monkeypatch) -> None:
    """Addresses of a port where nobody listens."""
    nobody = "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nobody, nobody])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [nobody])
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(dataset, "url", nobody + dataset.filename)


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    "name, looked_for, where",
    [
        ("mnist", "the four *-ubyte files", "MNIST/raw"),
        ("fashion_mnist", "the four *-ubyte files", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py/ or cifar-10-python.tar.gz", ""),
        ("cifar100", "cifar-100-python/ or cifar-100-python.tar.gz", ""),
    ],
)
def test_without_a_server_one_line_says_what_was_looked_for_where_and_what_else_works(
    monkeypatch, root, name, looked_for, where, download
):
    unreachable(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        arrays.READERS[name](root, True, download)
    message = str(caught.value)
    assert message.startswith(f"{CATALOG[name].title}: looked for {looked_for} in {root / where}: ")
    assert NO_DOWNLOAD in message
    assert "\n" not in message
    assert ("Connection refused" if download else "data.download=false") in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_root_that_cannot_be_written_to_is_one_line_too(monkeypatch, server, tmp_path, name):
    publish_cifar(monkeypatch, server, "cifar10")
    package_in(monkeypatch, tmp_path / "debian")
    unreachable(monkeypatch)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="Not a directory|File exists"):
        arrays.READERS[name](tmp_path / "file" / "data", True, True)


# MNIST and Fashion-MNIST: IDX, big-endian, described at the foot of yann.lecun.com/exdb/mnist


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", 30), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = images
        files[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    return files


def package_in(monkeypatch, folder: Path) -> dict[str, np.ndarray]:
    """A Debian package's folder: gzip of its own making, so with checksums of its own."""
    folder.mkdir()
    files = idx_files()
    for name, array in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1, mtime=0))
    monkeypatch.setattr(arrays, "DEBIAN_FASHION_MNIST", folder)
    return files


def assert_read_as_written(read, root: Path, files: dict[str, np.ndarray], download: bool) -> None:
    for train, part in ((True, "train"), (False, "t10k")):
        found = read(root, train, download)
        images = files[f"{part}-images-idx3-ubyte"]
        assert np.array_equal(found.images.numpy(), images[:, None])
        assert found.images.dtype == torch.uint8
        assert found.labels.tolist() == files[f"{part}-labels-idx1-ubyte"].tolist()
        assert found.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "dataset, read", [(datasets.MNIST, read_mnist), (datasets.FashionMNIST, read_fashion_mnist)]
)
def test_idx_archives_are_downloaded_checked_unpacked_and_read(
    monkeypatch, server, root, dataset, read
):
    files = idx_files()
    for name, array in files.items():
        (server.folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
    sums = [(gz, md5((server.folder / gz).read_bytes())) for gz, _ in dataset.resources]
    monkeypatch.setattr(dataset, "mirrors", [server.url])
    monkeypatch.setattr(dataset, "resources", sums)
    assert_read_as_written(read, root, files, True)


def test_a_damaged_idx_archive_is_refused_and_the_next_try_works(monkeypatch, server, root):
    files = idx_files()
    for name, array in files.items():
        (server.folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
    sums = [(gz, md5((server.folder / gz).read_bytes())) for gz, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    server.cut_off = "in the middle"
    with pytest.raises(ConfigError, match="download failed .*corrupted"):
        read_mnist(root, True, True)
    server.cut_off = ""
    assert_read_as_written(read_mnist, root, files, True)


def test_hand_placed_idx_files_are_read_without_a_download(monkeypatch, root):
    unreachable(monkeypatch)
    files = idx_files()
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in files.items():
        (raw / name).write_bytes(idx(array))
    assert_read_as_written(read_mnist, root, files, True)
    assert_read_as_written(read_mnist, root, files, False)


@pytest.mark.parametrize("keep", [0, 2, 16, -100], ids=["empty", "2 bytes", "header", "cut off"])
@pytest.mark.parametrize("download", [True, False])
def test_a_truncated_idx_file_is_said_to_be_there_but_broken(monkeypatch, root, keep, download):
    unreachable(monkeypatch)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in idx_files().items():
        (raw / name).write_bytes(idx(array))
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="they are there, but not intact .*; remove them"):
        read_mnist(root, True, download)


def test_fashion_mnist_is_found_in_debians_package_and_unpacked_to_the_same_bytes(
    monkeypatch, tmp_path, root
):
    unreachable(monkeypatch)
    files = package_in(monkeypatch, tmp_path / "debian")
    assert_read_as_written(read_fashion_mnist, root, files, True)
    raw = root / "FashionMNIST" / "raw"
    assert sorted(p.name for p in raw.iterdir()) == sorted(files)  # and no .part beside them
    assert all((raw / name).read_bytes() == idx(array) for name, array in files.items())


def test_debians_package_is_unpacked_once_and_never_over_what_is_there(monkeypatch, tmp_path, root):
    unreachable(monkeypatch)
    files = package_in(monkeypatch, tmp_path / "debian")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    own = idx_files(seed=1)["train-images-idx3-ubyte"]
    (raw / "train-images-idx3-ubyte").write_bytes(idx(own))
    read_fashion_mnist(root, True, False)
    times = {p: p.stat().st_mtime_ns for p in raw.iterdir()}
    assert_read_as_written(
        read_fashion_mnist, root, files | {"train-images-idx3-ubyte": own}, False
    )
    assert {p: p.stat().st_mtime_ns for p in raw.iterdir()} == times


@pytest.mark.parametrize("damage", ["cut off", "flipped bytes"])
def test_a_broken_package_leaves_no_half_file_behind(monkeypatch, tmp_path, root, damage):
    unreachable(monkeypatch)
    package_in(monkeypatch, tmp_path / "debian")
    packed = tmp_path / "debian" / "train-images-idx3-ubyte.gz"
    content = packed.read_bytes()
    half = len(content) // 2
    rest = b"" if damage == "cut off" else bytes(b ^ 255 for b in content[half:])
    packed.write_bytes(content[:half] + rest)
    with pytest.raises(ConfigError, match="Fashion-MNIST: looked for"):
        read_fashion_mnist(root, True, True)
    left = sorted(p.name for p in (root / "FashionMNIST" / "raw").iterdir())
    assert not any("train-images" in name or "part" in name for name in left)


REAL_PACKAGE = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL_PACKAGE.is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_the_real_fashion_mnist_has_the_catalogues_counts_mean_and_deviation(monkeypatch, root):
    monkeypatch.setattr(arrays, "DEBIAN_FASHION_MNIST", REAL_PACKAGE)
    unreachable(monkeypatch)
    facts = CATALOG["fashion_mnist"]
    train, test = (read_fashion_mnist(root, part, True) for part in (True, False))
    assert train.images.shape == (facts.train_images, 1, 28, 28) == (60_000, 1, 28, 28)
    assert test.images.shape == (facts.test_images, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10
    counts = np.bincount(train.images.numpy().ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
    assert (round(mean, 4),) == facts.mean
    assert (round(deviation, 4),) == facts.std


# digits


def test_digits_are_scikit_learns_every_one_once(tmp_path):
    train, test = (read_digits(tmp_path, part, False) for part in (True, False))
    theirs = load_digits()
    assert len(train) + len(test) == len(theirs.target) == 1797
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 8, 8)

    def rows(images, labels):
        flat = np.concatenate([np.asarray(images).reshape(-1, 64), np.asarray(labels)[:, None]], 1)
        return flat[np.lexsort(flat.T)]

    images, labels = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    back_to_16 = np.rint(images.numpy() * (16 / 255))
    assert np.array_equal(rows(back_to_16, labels), rows(theirs.data, theirs.target))


def test_the_17_grey_values_of_digits_span_0_to_255_evenly(tmp_path):
    levels = read_digits(tmp_path, True, False).images.unique().tolist()
    assert levels == [round(i * 255 / 16) for i in range(17)]


def test_a_fifth_of_each_digit_is_test(tmp_path):
    test = read_digits(tmp_path, False, False).labels.bincount()
    everything = torch.from_numpy(np.bincount(load_digits().target))
    assert (test - 0.2 * everything).abs().max() <= 0.5


def test_digits_test_images_are_always_the_same(tmp_path):
    first, second = (read_digits(tmp_path, False, False) for _ in range(2))
    assert torch.equal(first.images, second.images)


# fake


def test_fake_images_have_the_shape_asked_for_and_balanced_classes():
    fake = make_fake(7, 3, 12, 70, True)
    assert fake.images.shape == (70, 3, 12, 12)
    assert fake.images.dtype == torch.uint8
    assert fake.labels.bincount().tolist() == [10] * 7


def test_fake_classes_can_be_learned_on_train_and_told_apart_on_test():
    train, test = (make_fake(5, 1, 16, 200, part) for part in (True, False))
    centres = torch.stack([train.images[train.labels == c].float().mean(0) for c in range(5)])
    guesses = torch.cdist(test.images.float().flatten(1), centres.flatten(1)).argmin(1)
    assert (guesses == test.labels).float().mean() > 0.99


def test_fake_images_are_the_same_every_time_and_test_is_not_train():
    once, again, test = (make_fake(5, 1, 8, 50, part) for part in (True, True, False))
    assert torch.equal(once.images, again.images)
    assert not torch.equal(once.images, test.images)


def test_a_subset_has_the_images_and_labels_of_its_index():
    fake = make_fake(3, 1, 4, 9, True)
    part = fake.subset(torch.tensor([8, 0]))
    assert torch.equal(part.images, fake.images[[8, 0]])
    assert part.labels.tolist() == [2, 0]

"""Downloads that end well, badly and in the middle, from a server on this machine."""

import errno
import gzip
import hashlib
import io
import multiprocessing
import os
import struct
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.datasets import utils

from vitfw.data.reading.fetch import obtain
from vitfw.errors import ConfigError


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client that closes the connection early is what is tested


class Server:
    """Serves a folder on 127.0.0.1, whole or cut off, and keeps what was asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[str] = []
        self.cut_off = ""  # how, or not at all
        self.stopped = threading.Event()
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
                chunked = outer.cut_off == "in a chunk"
                self.send_response(200)
                if chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                if chunked:
                    self.wfile.write(f"{len(whole):x}\r\n".encode())
                self.wfile.write(whole[: len(whole) // 2])
                self.wfile.flush()
                if outer.cut_off == "stalls":
                    outer.stopped.wait(30)
                self.close_connection = True

        self.server = QuietServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def dtd_archive(count: int = 40) -> bytes:
    """Describable Textures in its real form: dtd/images/CLASS/*.jpg, dtd/labels/train1.txt."""
    random = np.random.default_rng(0)
    members: dict[str, bytes] = {}
    listed = []
    for i in range(count):
        name = f"{('banded', 'dotted')[i % 2]}/{i}.jpg"
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "jpeg")
        members[f"dtd/images/{name}"] = buffer.getvalue()
        listed.append(name)
    for split in ("train", "val", "test"):
        members[f"dtd/labels/{split}1.txt"] = "".join(f"{n}\n" for n in listed).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = "dtd-r1.0.1.tar.gz"
REQUESTS = 2  # of torchvision for one download: where is it, and what is it


@pytest.fixture
def dtd(monkeypatch, server, root):
    """A function that obtains DTD from the server; torchvision takes its folder for the whole."""
    content = dtd_archive()
    (server.folder / ARCHIVE).write_bytes(content)
    monkeypatch.setattr(datasets.DTD, "_URL", server.url + ARCHIVE)
    monkeypatch.setattr(datasets.DTD, "_MD5", md5(content))

    def read(download: bool = True) -> datasets.DTD:
        return obtain("dtd", root, "dtd", download, make_dtd(root))

    return read


def make_dtd(root: Path):
    return lambda fetch: datasets.DTD(str(root), "train", download=fetch)


def everything_in(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")} if root.exists() else set()


def message_of(read, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what ends well


def test_a_set_is_downloaded_once_and_no_marker_stays(dtd, server, root):
    assert len(dtd()) == 40
    assert not [name for name in everything_in(root) if "fetching" in name]
    (server.folder / ARCHIVE).unlink()
    server.asked.clear()
    assert len(dtd()) == len(dtd(False)) == 40
    assert server.asked == []


def test_an_archive_placed_by_hand_is_unpacked_without_a_download(dtd, server, root):
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / ARCHIVE).write_bytes((server.folder / ARCHIVE).read_bytes())
    assert len(dtd(False)) == 40
    assert server.asked == []


def test_nothing_is_printed_where_there_is_no_terminal(dtd, capfd):
    dtd()
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal(dtd, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    dtd()
    assert "100%" in terminal.getvalue()


def test_two_processes_at_once_download_once(dtd, server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(dtd()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [40, 40]
    assert server.asked.count(ARCHIVE) == REQUESTS


# what is cut off


@pytest.mark.parametrize("how", ["in the middle", "in a chunk"])
def test_a_broken_connection_leaves_nothing_and_the_next_try_works(dtd, server, root, how):
    server.cut_off = how
    assert "dtd" in message_of(dtd)
    assert everything_in(root) == set()
    server.cut_off = ""
    assert len(dtd()) == 40


def test_a_corrupted_archive_is_removed_and_that_is_said(dtd, server, root):
    whole = (server.folder / ARCHIVE).read_bytes()
    (server.folder / ARCHIVE).write_bytes(bytes(byte ^ 1 for byte in whole))
    assert "the archive was corrupted and has been removed" in message_of(dtd)
    assert everything_in(root) == set()
    (server.folder / ARCHIVE).write_bytes(whole)
    assert len(dtd()) == 40


def test_a_set_unpacked_in_part_is_not_taken_for_whole(monkeypatch, dtd, root):
    """Without the marker, torchvision would take the folder for the data set ever after."""
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_ARCHIVE_EXTRACTORS", {".tar": unpack_half})
        assert "gave up" in message_of(dtd)
    assert everything_in(root) == {"dtd", f"dtd/{ARCHIVE}"}  # the archive had the right checksum
    assert len(dtd()) == 40


def unpack_half(archive, folder, _) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers()[:3]:
            tar.extract(member, folder, filter="data")
    raise EOFError("gave up")


def test_an_interrupt_by_the_keyboard_leaves_nothing_half_done(monkeypatch, dtd, root):
    def interrupt(*_):
        (root / "dtd" / "dtd" / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_ARCHIVE_EXTRACTORS", {".tar": interrupt})
        with pytest.raises(KeyboardInterrupt):
            dtd()
    assert everything_in(root) == {"dtd", f"dtd/{ARCHIVE}"}


def unpack_some_and_wait(archive, folder, _) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in [*members[:3], *members[-3:]]:
            tar.extract(member, folder, filter="data")
    time.sleep(60)


@pytest.fixture
def kill_once(dtd, root):
    """Lets another process fetch DTD and kills it once a file is there."""

    def fetch() -> None:
        utils._ARCHIVE_EXTRACTORS[".tar"] = unpack_some_and_wait
        dtd()

    def kill_once(file: str) -> None:
        child = multiprocessing.get_context("fork").Process(target=fetch, daemon=True)
        child.start()
        end = time.monotonic() + 30
        while not (root / file).exists() or not (root / file).stat().st_size:
            assert time.monotonic() < end and child.is_alive()
            time.sleep(0.02)
        child.kill()
        child.join()

    return kill_once


def test_what_a_process_killed_in_unpacking_left_is_not_used(kill_once, dtd, server, root):
    kill_once("dtd/dtd/labels/test1.txt")
    half = datasets.DTD(str(root), "train")  # to torchvision it is the data set
    assert not all(path.exists() for path in half._image_files)
    message = message_of(dtd, False)
    assert "an earlier download" in message and "was cut off" in message
    assert str(root / ".fetching-dtd") in message
    whole = dtd()
    assert len(whole) == 40 and all(path.exists() for path in whole._image_files)
    assert not [name for name in everything_in(root) if "fetching" in name]
    assert server.asked.count(ARCHIVE) == REQUESTS  # the archive itself was whole


def test_another_name_of_the_same_folder_does_not_use_it_either(kill_once, root):
    kill_once("dtd/dtd/labels/test1.txt")
    assert len(obtain("dtd_of_another_kind", root, "dtd", True, make_dtd(root))) == 40


def test_what_a_process_killed_in_downloading_left_is_not_used(kill_once, dtd, server, root):
    server.cut_off = "stalls"
    kill_once(f"dtd/{ARCHIVE}")
    half = root / "dtd" / ARCHIVE
    assert 0 < half.stat().st_size < len((server.folder / ARCHIVE).read_bytes())
    server.cut_off = ""
    assert len(dtd()) == 40
    assert half.read_bytes() == (server.folder / ARCHIVE).read_bytes()


# a full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.FileIO):
    write = full


@pytest.mark.parametrize("when", ["downloading", "unpacking", "marking"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(monkeypatch, dtd, root, when):
    with monkeypatch.context() as patch:
        if when == "downloading":
            opened = lambda file, mode="r": (FullFile if "w" in mode else open)(file, mode)  # noqa: E731
            patch.setattr(utils, "open", opened, raising=False)
        elif when == "unpacking":
            patch.setattr(tarfile, "copyfileobj", full)
        else:
            patch.setattr("vitfw.data.reading.fetch_marker.write_text", full)
        assert f"dtd: the disk of {root} is full" in message_of(dtd)
    left = {"dtd", f"dtd/{ARCHIVE}"} if when == "unpacking" else set()
    assert everything_in(root) == left
    assert len(dtd()) == 40


# what was there before


def test_what_was_in_the_folder_before_stays(monkeypatch, dtd, server, root):
    (root / "dtd" / "mine").mkdir(parents=True)
    (root / "dtd" / "mine" / "notes.txt").write_text("mine")
    (root / "other").mkdir()
    (root / "photo.jpg").write_bytes(b"mine")
    before = everything_in(root)
    server.cut_off = "in the middle"
    message_of(dtd)
    assert everything_in(root) == before
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_ARCHIVE_EXTRACTORS", {".tar": unpack_half})
        server.cut_off = ""
        message_of(dtd)
    assert everything_in(root) == before | {f"dtd/{ARCHIVE}"}


def test_a_root_that_moved_and_a_relative_one_keep_what_was_there(
    monkeypatch, dtd, kill_once, root
):
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / "notes.txt").write_text("mine")
    kill_once("dtd/dtd/labels/test1.txt")
    moved = root.rename(root.with_name("moved"))
    monkeypatch.chdir(moved.parent)
    assert len(obtain("dtd", Path("moved"), "dtd", True, make_dtd(Path("moved")))) == 40
    assert (moved / "dtd" / "notes.txt").read_text() == "mine"


def unpacked_in_the_root(root: Path, fails: type[BaseException] | None):
    """What torchvision's iNaturalist and Places365 do: folders of the root, no checksums."""

    def make(fetch: bool) -> str:
        if fetch:
            (root / "2021_train" / "a").mkdir(parents=True)
            (root / "2021_train" / "a" / "x.jpg").touch()
            if fails:
                raise fails("on the way")
        if not (root / "2021_train").is_dir():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        return "found"

    return make


def test_without_a_folder_of_its_own_the_new_subfolders_of_the_root_go(root):
    (root / "mine").mkdir(parents=True)
    message_of(obtain, "inat", root, "", True, unpacked_in_the_root(root, OSError))
    assert everything_in(root) == {"mine"}
    assert obtain("inat", root, "", True, unpacked_in_the_root(root, None)) == "found"


def test_after_a_kill_new_subfolders_of_the_root_are_set_aside_as_they_may_be_anybodys(root):
    def fetch() -> None:
        def make(fetch: bool):
            if not fetch:
                raise RuntimeError("Dataset not found")
            (root / "2021_train" / "half").mkdir(parents=True)
            os._exit(9)

        obtain("inat", root, "", True, make)

    (root / "mine").mkdir(parents=True)
    child = multiprocessing.get_context("fork").Process(target=fetch)
    child.start()
    child.join()
    assert child.exitcode == 9
    (root / "later").mkdir()
    assert obtain("inat", root, "", True, unpacked_in_the_root(root, None)) == "found"
    assert (root / "mine").is_dir()
    assert (root / ".cut-off" / "later").is_dir()
    assert (root / ".cut-off" / "2021_train" / "half").is_dir()
    assert not (root / "2021_train" / "half").exists()


# nothing there


def test_without_a_download_one_line_says_what_where_and_what_would_help(dtd, server, root):
    message = message_of(dtd, False)
    assert message.startswith(f"dtd: looked for its files in {root / 'dtd'}: data.download=false")
    for advice in ("by hand", "data.root", "data.download=true", "no download: digits, fake"):
        assert advice in message
    assert server.asked == []
    assert not root.exists()


def test_without_a_server_one_line_says_so(monkeypatch, dtd, root):
    monkeypatch.setattr(datasets.DTD, "_URL", f"http://127.0.0.1:9/{ARCHIVE}")
    message = message_of(dtd)
    assert message.startswith(f"dtd: looked for its files in {root / 'dtd'}: the download failed")
    assert "Connection refused" in message and "no download: digits, fake" in message
    assert everything_in(root) == set()


def test_a_root_that_cannot_be_a_folder_is_one_line(dtd, root):
    root.write_text("a file")
    assert "cannot be written: " in message_of(dtd)
    assert "looked for its files" in message_of(dtd, False)


def test_a_set_that_torchvision_cannot_download_is_not_there(root):
    def make(fetch: bool):
        return datasets.StanfordCars(str(root))

    root.mkdir()
    assert "not there or not intact" in message_of(
        obtain, "stanford_cars", root, "stanford_cars", False, make
    )


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'h5py'", name="h5py"),
        RuntimeError("h5py is not found. This dataset needs to have h5py installed: please run"),
        RuntimeError("To download files from GDrive, 'gdown' is required. You can install it"),
    ],
)
@pytest.mark.parametrize("while_fetching", [False, True])
def test_a_missing_package_is_named_with_what_installs_it(root, error, while_fetching):
    def make(fetch: bool):
        raise error if fetch or not while_fetching else RuntimeError("Dataset not found")

    package = "gdown" if "gdown" in str(error) else "h5py"
    message = message_of(obtain, "pcam", root, "pcam", True, make)
    assert message == f"pcam: needs {package}: pip install 'vitfw[datasets]'"


def test_an_error_of_the_program_is_not_taken_for_one_of_the_data(root):
    def make(fetch: bool):
        raise TypeError("got an unexpected keyword argument")

    with pytest.raises(TypeError, match="unexpected keyword"):
        obtain("dtd", root, "dtd", True, make)


# other formats


def test_a_zip_of_folders_cut_off_is_not_used_either(monkeypatch, server, root):
    """EuroSAT, whose address and checksum stand in the middle of its code."""
    with zipfile.ZipFile(server.folder / "EuroSAT.zip", "w") as archive:
        for i in range(4):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(buffer, "jpeg")
            archive.writestr(f"2750/{('Forest', 'River')[i % 2]}/{i}.jpg", buffer.getvalue())
    content = (server.folder / "EuroSAT.zip").read_bytes()
    fetch = utils.download_and_extract_archive
    monkeypatch.setattr(
        "torchvision.datasets.eurosat.download_and_extract_archive",
        lambda url, download_root, md5: fetch(
            server.url + "EuroSAT.zip", download_root, md5=hashlib.md5(content).hexdigest()
        ),
    )

    def read():
        make = lambda download: datasets.EuroSAT(str(root), download=download)  # noqa: E731
        return obtain("eurosat", root, "eurosat", True, make)

    server.cut_off = "in the middle"
    message_of(read)
    assert everything_in(root) == set()
    server.cut_off = ""
    assert len(read()) == 4


def idx(array: np.ndarray) -> bytes:
    """The format at the foot of yann.lecun.com/exdb/mnist: big-endian, sizes first."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(monkeypatch, server, root):
    sums = []
    for part, count in (("train", 30), ("t10k", 20)):
        for kind, array in (
            ("images-idx3", np.full((count, 28, 28), 7, np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            packed = gzip.compress(idx(array), mtime=0)
            (server.folder / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
            sums.append((f"{part}-{kind}-ubyte.gz", md5(packed)))
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", server.url])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)

    def read(download: bool = True) -> datasets.MNIST:
        make = lambda fetch: datasets.MNIST(str(root), True, download=fetch)  # noqa: E731
        return obtain("mnist", root, "MNIST/raw", download, make)

    return read


@pytest.mark.parametrize("how", ["in the middle", "in a chunk"])
def test_a_mirror_that_breaks_off_leaves_nothing_and_the_next_try_works(mnist, server, root, how):
    server.cut_off = how
    message_of(mnist)
    assert everything_in(root) == set()
    server.cut_off = ""
    assert mnist().data.shape == (30, 28, 28)


@pytest.mark.parametrize("keep", [0, 2, 16, -100], ids=["empty", "2 bytes", "header", "cut off"])
@pytest.mark.parametrize("download", [True, False])
def test_a_file_cut_off_by_hand_is_said_to_be_there_but_broken(mnist, root, keep, download):
    mnist()
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:keep])
    assert "they are there, but not intact (" in message_of(mnist, download)


def test_files_are_fetched_that_are_missing_beside_others(mnist, root):
    mnist()
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte").unlink()
    assert mnist(False).data.shape == (30, 28, 28)  # from the archive that is there

"""Downloads that end well, badly and in the middle, from a server on this machine."""

import errno
import gzip
import hashlib
import io
import multiprocessing
import os
import shutil
import struct
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Literal
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.datasets import inaturalist, utils

from vitfw.console import log
from vitfw.data.reading.fetch import obtain
from vitfw.data.reading.fetch_scratch import Scratch, alone
from vitfw.data.sets import large
from vitfw.errors import ConfigError
from vitfw.progress_bar import LongWork


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


def tar_of(members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


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
    return tar_of(members)


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
        return obtain("dtd", root, "dtd", download, make_dtd)

    return read


def make_dtd(home: Path, fetch: bool) -> datasets.DTD:
    return datasets.DTD(str(home), "train", download=fetch)


def everything_in(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")} if root.exists() else set()


def message_of(read, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what ends well


def test_a_set_is_downloaded_once_and_nothing_else_stays(dtd, server, root):
    assert len(dtd()) == 40
    assert not any(name.startswith(".") for name in everything_in(root))
    assert not any(path.is_symlink() for path in root.rglob("*"))
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


def test_download_and_unpacking_are_shown_to_the_last_byte(dtd, server, monkeypatch):
    shown = []

    class Watched(LongWork):
        def end(self, broken=False):
            shown.append((self.what, self.done, self.total, self.unit))
            super().end(broken)

    monkeypatch.setattr("vitfw.data.reading.fetch_torchvision.LongWork", Watched)
    dtd()
    size = (server.folder / ARCHIVE).stat().st_size
    assert (f"downloading {ARCHIVE}", size, size, "bytes") in shown
    assert f"unpacking {ARCHIVE}" in [what for what, *_ in shown]


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
    def interrupt(archive, folder, _):
        (Path(folder) / "dtd" / "images").mkdir(parents=True)
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


def killed_once(there: Path, fetch) -> None:
    """Let another process `fetch` and kill it once something is in the file `there`."""
    child = multiprocessing.get_context("fork").Process(target=fetch, daemon=True)
    child.start()
    end = time.monotonic() + 30
    while not there.exists() or not there.stat().st_size:
        assert time.monotonic() < end and child.is_alive()
        time.sleep(0.02)
    child.kill()
    child.join()


@pytest.fixture
def killed_unpacking(dtd, root):
    """Some of the files are unpacked, of all folders."""

    def fetch() -> None:
        utils._ARCHIVE_EXTRACTORS[".tar"] = unpack_some_and_wait
        dtd()

    killed_once(root / ".fetch-dtd" / "dtd" / "dtd" / "labels" / "test1.txt", fetch)


def test_what_a_process_killed_in_unpacking_left_is_not_used(killed_unpacking, dtd, server, root):
    half = datasets.DTD(str(root / ".fetch-dtd"), "train")  # to torchvision it is the data set
    assert not all(path.exists() for path in half._image_files)
    whole = dtd()
    assert len(whole) == 40 and all(path.exists() for path in whole._image_files)
    assert not any(name.startswith(".") for name in everything_in(root))
    assert server.asked.count(ARCHIVE) == REQUESTS  # the archive itself was whole


def test_the_archive_of_a_killed_process_is_unpacked_without_a_download(killed_unpacking, dtd):
    assert all(path.exists() for path in dtd(False)._image_files)


def test_another_name_of_the_same_folder_does_not_use_it_either(killed_unpacking, root):
    found = obtain("dtd_of_another_kind", root, "dtd", True, make_dtd)
    assert all(path.exists() for path in found._image_files)


@pytest.fixture
def killed_downloading(dtd, server, root):
    server.cut_off = "stalls"
    half = root / ".fetch-dtd" / "dtd" / ARCHIVE
    killed_once(half, dtd)
    assert 0 < half.stat().st_size < len((server.folder / ARCHIVE).read_bytes())
    server.cut_off = ""
    server.asked.clear()


def test_what_a_process_killed_in_downloading_left_is_not_used(
    killed_downloading, dtd, server, root
):
    assert len(dtd()) == 40
    assert (root / "dtd" / ARCHIVE).read_bytes() == (server.folder / ARCHIVE).read_bytes()


@pytest.mark.parametrize("download", [True, False])
def test_after_a_killed_download_an_archive_placed_by_hand_is_used(
    killed_downloading, dtd, server, root, download
):
    (root / "dtd").mkdir()
    (root / "dtd" / ARCHIVE).write_bytes((server.folder / ARCHIVE).read_bytes())
    assert len(dtd(download)) == 40
    assert server.asked == []


@pytest.mark.parametrize("download", [True, False])
def test_after_a_killed_download_files_placed_by_hand_are_used(
    killed_downloading, dtd, server, root, download
):
    with tarfile.open(server.folder / ARCHIVE) as tar:
        tar.extractall(root / "dtd", filter="data")
    before = contents_of(root / "dtd")
    assert len(dtd(download)) == 40
    assert server.asked == []
    assert contents_of(root / "dtd") == before
    assert not (root / ".fetch-dtd").exists()


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("beside", [True, False], ids=["files of it there", "nothing there"])
def test_a_process_killed_in_moving_the_files_to_their_place_is_gone_on_with(
    monkeypatch, dtd, server, root, beside
):
    """Before the first, and after some of them."""
    if beside:
        (root / "dtd" / "dtd" / "labels").mkdir(parents=True)

    def fetch() -> None:
        move = Scratch.move

        def move_one_and_die(*arguments):
            move(*arguments)
            os._exit(9)

        how = move_one_and_die if beside else lambda *_: os._exit(9)
        keep = lambda *_: None  # noqa: E731  that moves, too
        with mock.patch.multiple(Scratch, move=how, keep=keep):
            dtd()

    child = multiprocessing.get_context("fork").Process(target=fetch)
    child.start()
    child.join(30)
    assert child.exitcode == 9
    assert (root / ".fetched-dtd").exists()
    server.asked.clear()
    found = dtd(False)
    assert len(found) == 40 and all(path.exists() for path in found._image_files)
    assert server.asked == []
    assert not any(name.startswith(".") for name in everything_in(root))


# several at once


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(log, level, lambda text, *values: said.append(text % values))
    return said


def test_a_process_that_waits_for_another_says_so_once(messages, dtd, root):
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(Scratch(root, "dtd"), root):
            held.set()
            go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    waiter = threading.Thread(target=dtd)
    waiter.start()
    end = time.monotonic() + 30
    while not messages and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert messages == [f"waiting for another process that fetches dtd into {root}"]
    go.set()
    holder.join(30)
    waiter.join(30)
    assert len(messages) == 1
    assert (root / "dtd" / "dtd").is_dir()


def test_different_sets_do_not_wait_for_each_other(root):
    with alone(Scratch(root, "one"), root):
        with alone(Scratch(root, "another"), root, wait=False) as mine:
            assert mine
        with alone(Scratch(root, "one"), root, wait=False) as mine:
            assert not mine


# a full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.FileIO):
    write = full


@pytest.mark.parametrize("when", ["downloading", "unpacking", "making room"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(monkeypatch, dtd, root, when):
    with monkeypatch.context() as patch:
        if when == "downloading":
            opened = lambda file, mode="r": (FullFile if "w" in mode else open)(file, mode)  # noqa: E731
            patch.setattr(utils, "open", opened, raising=False)
        elif when == "unpacking":
            patch.setattr(tarfile, "copyfileobj", full)
        else:
            patch.setattr(Scratch, "begin", full)
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
    monkeypatch, killed_unpacking, root
):
    (root / "dtd" / "notes.txt").write_text("mine")
    moved = root.rename(root.with_name("moved"))
    monkeypatch.chdir(moved.parent)
    assert len(obtain("dtd", Path("moved"), "dtd", True, make_dtd)) == 40
    assert (moved / "dtd" / "notes.txt").read_text() == "mine"


@pytest.fixture
def a_busy_user(monkeypatch, root):
    """Somebody trains, keeps notes and unpacks by hand while a data set is being unpacked."""
    files = ["my_runs/best.ckpt", "train/mine.txt", "2021_valid/mine.txt", "dtd/mine.txt", "x.mat"]
    begin = Scratch.begin

    def begin_and_work(*arguments):
        begin(*arguments)
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("mine")

    monkeypatch.setattr(Scratch, "begin", begin_and_work)
    return files


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("no network"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("folder", ["", "dtd"])
def test_what_a_user_makes_while_a_failing_set_is_unpacked_stays(root, a_busy_user, error, folder):
    def make(home: Path, fetch: bool):
        if not fetch:
            raise RuntimeError("Dataset not found")
        (home / "2021_valid" / "half").mkdir(parents=True)
        raise error

    with pytest.raises((ConfigError, KeyboardInterrupt)):
        obtain("inat", root, folder, True, make)
    assert contents_of(root) == dict.fromkeys(a_busy_user, b"mine")
    assert not (root / "2021_valid" / "half").exists()


def test_what_a_user_makes_while_a_set_is_unpacked_stays(root, a_busy_user):
    def make(home: Path, fetch: bool):
        if fetch:
            (home / "2021_valid").mkdir()
            (home / "2021_valid" / "a.jpg").write_text("image")
        if not (home / "2021_valid" / "a.jpg").exists():
            raise RuntimeError("Dataset not found")
        return "found"

    assert obtain("inat", root, "", True, make) == "found"
    expected = dict.fromkeys(a_busy_user, b"mine") | {"2021_valid/a.jpg": b"image"}
    assert contents_of(root) == expected


def test_what_differs_from_what_belongs_there_is_set_aside_each_time_under_another_name(
    messages, dtd, server, root
):
    (root / "dtd").mkdir(parents=True)
    for version in ("first", "second"):
        (root / "dtd" / ARCHIVE).write_text(version)
        shutil.rmtree(root / "dtd" / "dtd", ignore_errors=True)
        assert len(dtd()) == 40
    assert contents_of(root / ".replaced") == {
        f"dtd/{ARCHIVE}": b"first",
        f"dtd/{ARCHIVE}-2": b"second",
    }
    assert len(messages) == 2 and f"moved to {root / '.replaced' / 'dtd' / ARCHIVE}" in messages[0]
    assert (root / "dtd" / ARCHIVE).read_bytes() == (server.folder / ARCHIVE).read_bytes()


def test_a_wrong_archive_placed_by_hand_stays_where_no_download_is_allowed(dtd, root):
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / ARCHIVE).write_text("mine")
    message_of(dtd, False)
    assert contents_of(root) == {f"dtd/{ARCHIVE}": b"mine"}


def test_a_small_file_that_an_archive_is_unpacked_over_is_not_changed_by_half(root):
    def make(home: Path, fetch: bool):
        if not fetch:
            raise RuntimeError("Dataset not found")
        assert (home / "list.txt").read_text() == "mine"
        (home / "list.txt").write_text("ha")
        raise EOFError

    root.mkdir()
    (root / "list.txt").write_text("mine")
    with pytest.raises(ConfigError):
        obtain("places", root, "", True, make, placed=["*.txt"])
    assert contents_of(root) == {"list.txt": b"mine"}


@pytest.mark.parametrize("placed", [True, False])
def test_an_archive_that_torchvision_removes_goes_unless_it_was_placed_by_hand(
    server, root, placed
):
    """Caltech-101's."""
    content = tar_of({"caltech/1.jpg": b"image"})
    (server.folder / "caltech.tgz").write_bytes(content)

    def make(home: Path, fetch: bool):
        if fetch:
            utils.download_and_extract_archive(
                server.url + "caltech.tgz", home, md5=md5(content), remove_finished=True
            )
        return (home / "caltech" / "1.jpg").read_bytes()

    if placed:
        root.mkdir()
        (root / "caltech.tgz").write_bytes(content)
    assert obtain("caltech", root, "caltech", True, make) == b"image"
    assert (root / "caltech.tgz").exists() == placed
    assert len(server.asked) == (0 if placed else REQUESTS)


def test_big_archives_are_not_copied_to_be_unpacked(monkeypatch, dtd, server, root):
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / ARCHIVE).write_bytes((server.folder / ARCHIVE).read_bytes())
    monkeypatch.setattr("vitfw.data.reading.fetch_scratch.COPIED_BELOW", 0)
    monkeypatch.setattr("shutil.copyfile", full)
    assert len(dtd(False)) == 40
    assert contents_of(root)[f"dtd/{ARCHIVE}"] == (server.folder / ARCHIVE).read_bytes()


def test_a_file_system_without_links_does_as_well(monkeypatch, dtd, server, root):
    def no_links(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", no_links)
    monkeypatch.setattr("vitfw.data.reading.fetch_scratch.COPIED_BELOW", 0)
    assert len(dtd()) == 40
    shutil.rmtree(root / "dtd" / "dtd")
    assert len(dtd(False)) == 40
    assert server.asked.count(ARCHIVE) == REQUESTS
    assert set(contents_of(root)) >= {f"dtd/{ARCHIVE}", "dtd/dtd/labels/train1.txt"}


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


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda home, fetch: datasets.Caltech101(str(home), download=fetch),
        lambda home, fetch: datasets.Caltech256(str(home), download=fetch),
        lambda home, fetch: datasets.INaturalist(str(home), "2021_valid", download=fetch),
    ],
)
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_root_that_may_not_be_written_to_is_not_called_broken(
    monkeypatch, root, make, code, download
):
    """These three make their folder before they look into it."""

    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    message = message_of(obtain, "set", root, "", download, make)
    assert ("cannot be written" if download else "not there or not intact") in message
    assert "they are there" not in message


def test_a_set_that_torchvision_cannot_download_is_not_there(root):
    def make(home: Path, fetch: bool):
        return datasets.StanfordCars(str(home))

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
    def make(_: Path, fetch: bool):
        raise error if fetch or not while_fetching else RuntimeError("Dataset not found")

    package = "gdown" if "gdown" in str(error) else "h5py"
    message = message_of(obtain, "pcam", root, "pcam", True, make)
    assert message == f"pcam: needs {package}: pip install 'vitfw[datasets]'"


def test_an_error_of_the_program_is_not_taken_for_one_of_the_data(root):
    def make(*_):
        raise TypeError("got an unexpected keyword argument")

    with pytest.raises(TypeError, match="unexpected keyword"):
        obtain("dtd", root, "dtd", True, make)


# no network without leave


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda home, fetch: datasets.CelebA(str(home), download=fetch),
        lambda home, fetch: datasets.PCAM(str(home), download=fetch),
    ],
)
def test_google_drive_is_not_asked_without_leave(monkeypatch, root, make, installed):
    asked: list[object] = []
    gdown = ModuleType("gdown") if installed else None
    if gdown:
        gdown.__dict__["download"] = lambda **options: asked.append(options)
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    monkeypatch.setitem(sys.modules, "h5py", ModuleType("h5py"))
    root.mkdir()
    message = message_of(obtain, "set", root, "", False, make)
    assert "data.download=false, and they are not there" in message
    assert asked == []
    assert sys.modules["gdown"] is gdown
    assert everything_in(root) == set()


@pytest.mark.parametrize("missing", ["_download_file_from_remote_location", "tqdm"])
def test_another_version_of_torchvision_without_a_private_name_does_as_well(
    monkeypatch, dtd, server, missing
):
    tqdm = utils.tqdm
    monkeypatch.delattr(utils, missing)
    monkeypatch.setattr("builtins.tqdm", tqdm, raising=False)
    assert "data.download=false" in message_of(dtd, False)
    assert server.asked == []
    assert len(dtd()) == 40


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
        make = lambda home, fetch: datasets.EuroSAT(str(home), download=fetch)  # noqa: E731
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
        make = lambda home, fetch: datasets.MNIST(str(home), True, download=fetch)  # noqa: E731
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


# sets without a folder of their own


SPECIES = "_Animalia_Chordata_Aves_Passeriformes_Fringillidae_Acanthis_cabaret"


@pytest.mark.parametrize("download", [True, False])
def test_inaturalists_archive_placed_by_hand_is_unpacked_beside_a_users_own_files(
    monkeypatch, root, a_busy_user, download
):
    content = tar_of({f"val/0000{i}{SPECIES}/{i}.jpg": b"image" for i in range(2)})
    monkeypatch.setitem(inaturalist.DATASET_MD5, "2021_valid", md5(content))
    root.mkdir()
    (root / "2021_valid.tgz").write_bytes(content)
    (root / "2021_train").mkdir()  # a sign that the root is the set's own folder
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_ARCHIVE_EXTRACTORS", {".tar": unpack_half})
        assert "gave up" in message_of(large.SETS["inaturalist_2021"].read, root, "test", download)
    assert contents_of(root) == dict.fromkeys(a_busy_user, b"mine") | {"2021_valid.tgz": content}
    (root / "2021_valid" / "mine.txt").unlink()  # there, it would be a species to torchvision
    a_busy_user.clear()
    found = large.SETS["inaturalist_2021"].read(root, "test", download)
    assert found.images.labels.tolist() == [0, 1]
    assert (root / "my_runs" / "best.ckpt").read_text() == "mine"


def test_places_images_are_unpacked_with_lists_that_are_there(monkeypatch, root):
    """The archive of the lists is not needed, and not asked for."""
    lists = {
        "categories_places365.txt": b"/a/abbey 0\n/b/bar 1\n",
        "places365_val.txt": b"1.jpg 1\n",
    }
    images = tar_of({"val_256/1.jpg": b"image"}, "w")
    places = datasets.Places365
    sums = {name: (name, md5(content)) for name, content in lists.items()}
    monkeypatch.setattr(places, "_CATEGORIES_META", sums["categories_places365.txt"])
    monkeypatch.setattr(places, "_FILE_LIST_META", {"val": sums["places365_val.txt"]})
    monkeypatch.setattr(places, "_IMAGES_META", {("val", True): ("val_256.tar", md5(images))})
    root.mkdir()
    for name, content in (lists | {"val_256.tar": images}).items():
        (root / name).write_bytes(content)
    before = contents_of(root)
    found = large.SETS["places365"].read(root, "test", False)
    assert (found.classes, found.images.labels.tolist()) == (("abbey", "bar"), [1])
    assert contents_of(root) == before | {"val_256/1.jpg": b"image"}

"""Looking over torchvision's shoulder while it downloads."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from torchvision.datasets import utils

from vitfw.console import messages_on_stderr
from vitfw.data.reading.fetch_scratch import Scratch
from vitfw.progress_bar import LongWork

# What reaches for the network; torchvision's own names differ between its versions.
NETWORK = ("_get_redirect_url", "_urlretrieve", "_download_file_from_remote_location")
ONE_AT_A_TIME = threading.Lock()  # torchvision's module is one for all threads


class NotAllowedError(Exception):
    """A download would be needed, and `data.download` is false."""


@contextlib.contextmanager
def watched_downloads(scratch: Scratch, download: bool) -> Iterator[None]:
    """Let torchvision fetch into `scratch` what the root does not have whole.

    It asks for the checksum of each file before it downloads it and after: before, the root's file
    is borrowed if it is right; after, the archive is kept. Progress is shown on a terminal only.

    Raises:
        NotAllowedError: a file has to come from the network and `download` is false.
    """
    check, extract = utils.check_integrity, utils.extract_archive
    asked_for = ""  # the file that was checked last: if it is not there, it is downloaded

    def check_integrity(fpath: str | os.PathLike[str], md5: str | None = None) -> bool:
        nonlocal asked_for
        file = Path(fpath)
        asked_for = file.name
        place = scratch.place_of(file)
        if md5 and place and not file.exists() and check(os.fspath(place), md5):
            scratch.borrow(file)
            return True
        right = check(os.fspath(fpath), md5)
        if md5 and right:
            scratch.keep(file)
        return right

    def extract_archive(from_path: str | Path, *args: Any, **options: Any) -> str | Path:
        with LongWork(f"unpacking {Path(from_path).name}"):
            return extract(from_path, *args, **options)

    def bar(total: int | None = None, **_: Any) -> LongWork:
        return LongWork(f"downloading {asked_for}", total, "bytes")

    patches: dict[str, Any] = {"check_integrity": check_integrity}
    patches["extract_archive"] = extract_archive
    if hasattr(utils, "tqdm"):
        patches["tqdm"] = bar
    if not download:
        patches |= {name: refuse for name in NETWORK if hasattr(utils, name)}
    with ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(utils, **patches))
        if not download:
            stack.enter_context(no_google_drive())
        if not sys.stdout.isatty():  # what torchvision prints goes nowhere, what we say does not
            stack.enter_context(messages_on_stderr())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


def refuse(*_: Any, **__: Any) -> Any:
    raise NotAllowedError


@contextlib.contextmanager
def no_google_drive() -> Iterator[None]:
    """torchvision imports gdown where it needs it: let it find one that refuses."""
    there = {name: sys.modules[name] for name in ("gdown",) if name in sys.modules}
    gdown = ModuleType("gdown")
    gdown.__dict__["download"] = refuse
    sys.modules["gdown"] = gdown
    try:
        yield
    finally:
        del sys.modules["gdown"]
        sys.modules.update(there)

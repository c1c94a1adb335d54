"""Looking over torchvision's shoulder while it downloads."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from torchvision.datasets import utils

from vitfw.data.reading.fetch_scratch import Scratch

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
    check, tqdm = utils.check_integrity, getattr(utils, "tqdm", None)

    def check_integrity(fpath: str | os.PathLike[str], md5: str | None = None) -> bool:
        file = Path(fpath)
        place = scratch.place_of(file)
        if md5 and place and not file.exists() and check(os.fspath(place), md5):
            scratch.borrow(file)
            return True
        right = check(os.fspath(fpath), md5)
        if md5 and right:
            scratch.keep(file)
        return right

    patches: dict[str, Any] = {"check_integrity": check_integrity}
    if tqdm:
        patches["tqdm"] = partial(tqdm, disable=None)  # None: where it is no terminal
    if not download:
        patches |= {name: refuse for name in NETWORK if hasattr(utils, name)}
    with ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(utils, **patches))
        if not download:
            stack.enter_context(no_google_drive())
        if not sys.stdout.isatty():
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

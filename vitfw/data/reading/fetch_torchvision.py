"""Looking over torchvision's shoulder while it downloads."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torchvision.datasets import utils


class NotAllowedError(Exception):
    """A download would be needed, and `data.download` is false."""


@contextlib.contextmanager
def watched_downloads(touch: Callable[[str, bool], None], download: bool) -> Iterator[None]:
    """Tell `touch(file, whole)` of each file torchvision asks the checksum of: it does so before
    and after downloading it. Its progress is shown on a terminal only.

    Raises:
        NotAllowedError: a file has to come from the network and `download` is false.
    """
    check, tqdm = utils.check_integrity, utils.tqdm

    def check_integrity(fpath: str | os.PathLike[str], md5: str | None = None) -> bool:
        right = check(os.fspath(fpath), md5)
        touch(os.fspath(fpath), right and md5 is not None)
        return right

    def progress(*args: Any, **options: Any) -> Any:
        return tqdm(*args, **options | {"disable": None})  # None: where it is no terminal

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotAllowedError

    patches: dict[str, Any] = {"check_integrity": check_integrity, "tqdm": progress}
    if not download:
        for name in ("_get_redirect_url", "_urlretrieve", "_download_file_from_remote_location"):
            patches[name] = refuse
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(utils, **patches))
        if not sys.stdout.isatty():
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield

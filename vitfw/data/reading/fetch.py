"""Getting a data set onto the disk whole, or saying in one line why not.

Downloads, checksums and unpacking are torchvision's. It takes a folder that is there for a data
set that is there, so it fetches into a scratch folder of ours below the root, and what it made is
moved into place when the data set could be opened.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from vitfw.data.reading.fetch_scratch import Scratch, alone
from vitfw.data.reading.fetch_torchvision import NotAllowedError, watched_downloads
from vitfw.errors import ConfigError

Found = TypeVar("Found")
Make = Callable[[Path, bool], Found]  # (root, whether to fetch)

# Broken files raise almost anything in their parsers; these are ours, not the files'.
BUGS = (ConfigError, TypeError, AttributeError, NameError, NotImplementedError)
NEED_NO_DOWNLOAD = "digits, fake, image_folder, csv"
PACKAGES = ("h5py", "gdown", "lmdb")  # what torchvision needs for some sets
MISSING = ("not found", "not present", "download=true", "couldn't find", "does not exist")
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class MissingError(Exception):
    """The files of a data set are not there, or are some that torchvision fetches anew."""


def obtain(
    name: str,
    root: Path,
    folder: str,
    download: bool,
    make: Make[Found],
    family: str = "",
    placed: Iterable[str] = (),
) -> Found:
    """`make(root, False)` where the files are there, else once they are fetched or unpacked.

    An archive placed by hand is unpacked without a download. Nothing that was in the root is ever
    removed or written over: what differs from what belongs there is moved to `root/.replaced`.

    `folder` is where below the root the data set lives. Of the sets of a `family`, by default those
    of one folder, one at a time is fetched. `placed` are patterns of files below the root that
    `make` works from and that do not come by torchvision's downloads.

    Raises:
        ConfigError: nothing usable is there and it could not be fetched; one line.
    """
    scratch = Scratch(root, family or folder.replace("/", "-") or name)
    if not scratch.whole.exists():
        try:
            found = opened(name, root, folder, make)
        except MissingError as error:
            if not download and not (root.is_dir() and os.access(root, os.W_OK)):
                raise not_there(name, root / folder) from error
        else:
            if not scratch.whole.exists():  # else another process is moving it there
                tidy(scratch, root)
                return found
    with alone(scratch, root):
        with reported(name, root, folder, download, scratch):
            scratch.resume()
        with contextlib.suppress(MissingError):  # another process may have fetched it meanwhile
            return opened(name, root, folder, make)
        with reported(name, root, folder, download, scratch):
            fetch(scratch, placed, download, make)
        try:
            return opened(name, root, folder, make)
        except MissingError as error:
            raise broken(name, root / folder, error) from error


def opened(name: str, root: Path, folder: str, make: Make[Found]) -> Found:
    """The data set as it lies in the root.

    Raises:
        MissingError: it is not there.
        ConfigError: it is broken.
    """
    try:
        return make(root, False)
    except BUGS:
        raise
    except Exception as error:
        if is_missing(error):
            raise MissingError(str(error)) from error
        raise broken(name, root / folder, error) from error


def fetch(scratch: Scratch, placed: Iterable[str], download: bool, make: Make[object]) -> None:
    """Bring the data set to the root, where nobody else does."""
    try:
        scratch.begin(placed)
        with watched_downloads(scratch, download):
            make(scratch.folder, True)
    except BaseException:
        scratch.discard()
        raise
    scratch.finish()


def tidy(scratch: Scratch, root: Path) -> None:
    """Remove what a killed process left of a data set that is there by now."""
    if scratch.folder.exists():
        with contextlib.suppress(ConfigError), alone(scratch, root, wait=False) as mine:
            if mine:
                scratch.discard()


@contextlib.contextmanager
def reported(
    name: str, root: Path, folder: str, download: bool, scratch: Scratch
) -> Iterator[None]:
    """Say in one line why a data set could not be fetched."""
    try:
        yield
    except ConfigError as error:
        message = str(error).replace(str(scratch.folder), str(root))
        raise ConfigError(message) from error
    except BUGS:
        raise
    except NotAllowedError as error:
        raise not_there(name, root / folder) from error
    except Exception as error:
        if not download and is_missing(error):
            raise not_there(name, root / folder) from error
        raise not_fetched(name, root, folder, scratch, error) from error


def is_missing(error: Exception) -> bool:
    """Whether `error` is about files that are not there, or that torchvision fetches anew."""
    if needed_package(error):
        return False
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:  # a folder could not be made
        return bool(error.filename) and not os.path.lexists(error.filename)
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in MISSING)


def needed_package(error: Exception) -> str | None:
    """The package torchvision misses: it lets the import fail or words it itself."""
    if isinstance(error, ModuleNotFoundError):
        return error.name
    worded = re.match(rf".*?'?({'|'.join(PACKAGES)})'? is (not found|required)", str(error))
    return worded[1] if worded else None


def broken(name: str, where: Path, error: Exception) -> Exception:
    if package := needed_package(error):
        return ConfigError(f"{name}: needs {package}: pip install 'vitfw[datasets]'")
    return ConfigError(
        f"{name}: looked for its files in {where}: they are there, but not intact "
        f"({one_line(error)}); remove them, and data.download=true fetches them anew"
    )


def not_there(name: str, where: Path) -> ConfigError:
    return ConfigError(
        f"{name}: looked for its files in {where}: data.download=false, and they are not there or "
        "not intact. Put them there by hand, point data.root at them, or set data.download=true. "
        f"Data sets that need no download: {NEED_NO_DOWNLOAD}"
    )


def not_fetched(
    name: str, root: Path, folder: str, scratch: Scratch, error: Exception
) -> ConfigError:
    if package := needed_package(error):
        return ConfigError(f"{name}: needs {package}: pip install 'vitfw[datasets]'")
    said = one_line(error).replace(f"{scratch.folder}/", f"{root}/")
    if scratch.whole.exists():
        return ConfigError(
            f"{name}: could not be moved from {scratch.whole}, where it is whole, to {root} "
            f"({said}). Once that is mended, the next command goes on with it"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigError(
            f"{name}: the disk of {root} is full ({error.strerror}); what had come of it is "
            "removed. Free some space, or point data.root at another disk"
        )
    if "file not found or corrupted" in said.lower():
        reason = f"the archive was corrupted and has been removed ({said})"
    else:
        reason = f"the download failed ({said}); what had come of it is removed"
    return ConfigError(
        f"{name}: looked for its files in {root / folder}: {reason}. Try again, put them there by "
        f"hand, or point data.root at them. Data sets that need no download: {NEED_NO_DOWNLOAD}"
    )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

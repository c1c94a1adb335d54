"""Getting a data set onto the disk whole, or saying in one line why not.

Downloads, checksums and unpacking are torchvision's. It takes a folder that is there for a data
set that is there, so a marker file `.fetching-FOLDER` stands in the root from before the first byte
until the data set could be opened: whatever stops the process, what came since is known.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from vitfw.data.reading.fetch_marker import Fetching, alone, marker_of
from vitfw.data.reading.fetch_torchvision import NotAllowedError, watched_downloads
from vitfw.errors import ConfigError

Found = TypeVar("Found")

# Broken files raise almost anything in their parsers; these are ours, not the files'.
BUGS = (ConfigError, TypeError, AttributeError, NameError, NotImplementedError)
NEED_NO_DOWNLOAD = "digits, fake, image_folder, csv"
PACKAGES = ("h5py", "gdown", "lmdb")  # what torchvision needs for some sets
MISSING = ("not found", "not present", "download=true", "couldn't find", "does not exist")


def obtain(
    name: str, root: Path, folder: str, download: bool, make: Callable[[bool], Found]
) -> Found:
    """`make(False)` where the files are there, else `make(True)` if they may be downloaded.

    An archive placed by hand is unpacked without a download. `folder` is where below `root` the
    data set lives: of a download or an unpacking that does not end well, what is new there is
    removed, and the archives that are not known to be whole; at the next start, if the process
    was killed. An empty `folder` stands for the subfolders that `root` did not have before.

    Raises:
        ConfigError: nothing usable is there and it could not be fetched; one line.
    """
    marker = marker_of(root, name, folder)
    if not marker.exists():
        try:
            found = make(False)
        except BUGS:
            raise
        except Exception as error:
            if not is_missing(error):
                raise broken(name, root / folder, error) from error
            if not download and not (root.is_dir() and os.access(root, os.W_OK)):
                raise not_there(name, root / folder) from error
        else:
            if not marker.exists():  # else another process began to fetch it meanwhile
                return found
    with alone(root):
        restart(name, root, folder, download)
        return fetch(name, root, folder, download, make)


def restart(name: str, root: Path, folder: str, download: bool) -> None:
    """Remove what a killed process left of this data set."""
    stale = Fetching.found(root, name, folder)
    if stale is None:
        return
    if not download:
        raise ConfigError(
            f"{name}: an earlier download into {root} was cut off, and data.download=false. "
            "data.download=true starts it again; if you have put the files there by hand since, "
            f"remove {stale.marker}"
        )
    stale.undo(killed=True)


def fetch(
    name: str, root: Path, folder: str, download: bool, make: Callable[[bool], Found]
) -> Found:
    """As `obtain`, where nobody else fetches into `root`."""
    try:
        return make(False)  # another process may have fetched it while this one waited
    except BUGS:
        raise
    except Exception as error:
        first = error
    touched: Mapping[str, object] = {}
    try:
        fetching = Fetching.begin(root, name, folder)
        touched = fetching.record.touched
        try:
            with watched_downloads(fetching.touch, download):
                found = make(True)
        except BaseException:
            fetching.undo()
            raise
        fetching.end()
        return found
    except BUGS:
        raise
    except NotAllowedError as error:
        raise not_there(name, root / folder) from error
    except Exception as error:
        if not download and is_missing(error):
            raise not_there(name, root / folder) from error
        if str(error) == str(first) and not touched:  # torchvision saw nothing to fetch
            raise broken(name, root / folder, error) from error
        raise not_fetched(name, root, folder, error) from error


def is_missing(error: Exception) -> bool:
    """Whether `error` is about files that are not there, or that torchvision fetches anew."""
    if needed_package(error):
        return False
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
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


def not_fetched(name: str, root: Path, folder: str, error: Exception) -> ConfigError:
    if package := needed_package(error):
        return ConfigError(f"{name}: needs {package}: pip install 'vitfw[datasets]'")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigError(
            f"{name}: the disk of {root} is full ({error.strerror}); what had come of it is "
            "removed. Free some space, or point data.root at another disk"
        )
    if "file not found or corrupted" in str(error).lower():
        reason = f"the archive was corrupted and has been removed ({one_line(error)})"
    else:
        reason = f"the download failed ({one_line(error)}); what had come of it is removed"
    return ConfigError(
        f"{name}: looked for its files in {root / folder}: {reason}. Try again, put them there by "
        f"hand, or point data.root at them. Data sets that need no download: {NEED_NO_DOWNLOAD}"
    )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

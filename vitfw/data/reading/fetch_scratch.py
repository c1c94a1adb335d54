"""A folder of our own beside the data, where a data set is fetched into until it is whole."""

import contextlib
import fcntl
import filecmp
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitfw.console import log
from vitfw.errors import ConfigError

COPIED_BELOW = 2**26  # bytes


class Scratch:
    """`ROOT/.fetch-KEY/`, which torchvision takes for the root until a data set is whole.

    The root itself never holds a half of anything, and what is removed after a failure is in here,
    where nobody else writes. A whole folder is renamed to `.fetched-KEY` and its content moved to
    the root; should that be cut off, the next process moves the rest. Archives with the right
    checksum go to the root at once, so that a later failure does not cost the download.
    """

    def __init__(self, root: Path, key: str):
        self.root = root.absolute()  # links need it
        self.key = key
        self.folder = self.root / f".fetch-{key}"
        self.whole = self.root / f".fetched-{key}"
        self.downloaded: list[Path] = []  # archives that are links here, and lie in the root

    def resume(self) -> None:
        """Bring to the root what a killed process had whole."""
        if self.whole.exists():
            self.move_content(self.whole, self.root)

    def begin(self, placed: Iterable[str]) -> None:
        """An empty folder but for the root's files of the patterns `placed`."""
        self.discard()
        self.folder.mkdir()
        for pattern in placed:
            for file in self.root.glob(pattern):
                if file.is_file():
                    self.borrow(self.folder / file.relative_to(self.root))

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def place_of(self, file: Path) -> Path | None:
        """Where in the root a file of this folder belongs."""
        file = file.absolute()
        return self.root / file.relative_to(self.folder) if self.folder in file.parents else None

    def borrow(self, file: Path) -> None:
        """Let the root's file be seen as `file`: a big one, an archive, as a link; a small one as
        a copy, for the unpacking of an archive may write over it."""
        place = self.root / file.relative_to(self.folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        if place.stat().st_size >= COPIED_BELOW:
            with contextlib.suppress(OSError):  # some file systems have no links
                file.symlink_to(place)
                return
        shutil.copyfile(place, file)

    def keep(self, file: Path) -> None:
        """Move a whole archive to the root, and leave a link to it."""
        place = self.place_of(file)
        if place is None or file.is_symlink() or same(file, place):
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        self.move(file, place)
        try:
            file.symlink_to(place)
        except OSError:  # a file system without links
            shutil.move(place, file)
        else:
            self.downloaded.append(file)

    def finish(self) -> None:
        """Everything is there: bring it to the root."""
        for file in self.downloaded:
            place = self.place_of(file)
            if place and not file.is_symlink():  # torchvision unpacked it and removed it
                place.unlink(missing_ok=True)
        self.folder.rename(self.whole)
        self.move_content(self.whole, self.root)

    def move_content(self, folder: Path, place: Path) -> None:
        for path in sorted(folder.iterdir()):
            target = place / path.name
            if path.is_symlink() and path.readlink().is_absolute():  # to a file of the root
                path.unlink()
            elif path.is_dir() and not path.is_symlink() and target.is_dir():
                self.move_content(path, target)
            elif same(path, target):
                path.unlink()
            else:
                self.move(path, target)
        folder.rmdir()

    def move(self, path: Path, target: Path) -> None:
        """As `shutil.move`, but what was at `target` is set aside under a name that is free."""
        if os.path.lexists(target):
            aside = free_name(self.root / ".replaced" / target.relative_to(self.root))
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(target, aside)
            log.warning("%s was not what belongs there: moved to %s", target, aside)
        shutil.move(path, target)


def free_name(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, … where that is taken."""
    names = (path.with_name(f"{path.name}-{i}") if i > 1 else path for i in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def same(file: Path, other: Path) -> bool:
    return file.is_file() and other.is_file() and filecmp.cmp(file, other, shallow=False)


@contextmanager
def alone(scratch: Scratch, root: Path, wait: bool = True) -> Iterator[bool]:
    """Whether no other process of this machine works in `scratch`, and none will in the block.

    The lock leaves no trace.
    """
    lock = scratch.root / f"{scratch.folder.name}.lock"
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise ConfigError(f"data.root={root} cannot be written: {error.strerror}") from error
        try:
            if not locked(held):
                if not wait:
                    yield False
                    return
                log.info("waiting for another process that fetches %s into %s", scratch.key, root)
                fcntl.flock(held, fcntl.LOCK_EX)
            if lock.exists() and os.path.samestat(os.fstat(held), lock.stat()):
                try:
                    yield True
                finally:
                    lock.unlink(missing_ok=True)
                return
        finally:
            os.close(held)


def locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

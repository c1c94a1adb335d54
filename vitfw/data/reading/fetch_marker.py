"""What was there before a data set was fetched, written down until it is there whole."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vitfw.atomic import write_text
from vitfw.console import log
from vitfw.errors import ConfigError

State = list[int] | None  # size and time of a file; None where there is none


@dataclass
class Record:
    """Of a data set on its way into `folder`; paths are relative to the root.

    `before`: each file and folder below the folder when it began. `folders`: the subfolders of the
    root. `touched`: the files downloaded to, wherever they are, as they were. `whole`: those of
    them that a checksum was found right for.
    """

    folder: str
    before: dict[str, State]
    folders: list[str]
    touched: dict[str, State] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)


class Fetching:
    """A record beside the data, in the file `.fetching-FOLDER` of the root."""

    def __init__(self, root: Path, name: str, record: Record):
        self.root = root
        self.marker = marker_of(root, name, record.folder)
        self.record = record

    @classmethod
    def begin(cls, root: Path, name: str, folder: str) -> "Fetching":
        """Write down what is there."""
        before = {}
        if folder:
            paths = [*below(root / folder), *(p for p in above(root, folder) if p.exists())]
            before = {os.path.relpath(p, root): state(p) for p in paths}
        folders = [p.name for p in root.iterdir() if p.is_dir()]
        fetching = cls(root, name, Record(folder, before, folders))
        fetching.write()
        return fetching

    @classmethod
    def found(cls, root: Path, name: str, folder: str) -> "Fetching | None":
        """What a killed process wrote down, if it did."""
        marker = marker_of(root, name, folder)
        if not marker.exists():
            return None
        return cls(root, name, Record(**json.loads(marker.read_text(encoding="utf-8"))))

    def write(self) -> None:
        write_text(self.marker, json.dumps(asdict(self.record)))

    def end(self) -> None:
        self.marker.unlink()

    def touch(self, file: str, whole: bool) -> None:
        """`file` will be downloaded to, or is there with the right checksum."""
        record, path = self.record, os.path.relpath(file, self.root)
        if whole and path not in record.whole:
            record.whole.append(path)
        elif not whole and path not in record.touched:
            record.touched[path] = state(Path(file))
        else:
            return
        self.write()

    def undo(self, killed: bool = False) -> None:
        """Remove what came since, but for whole archives; then the marker.

        After a kill, new subfolders of the root may be anybody's where `folder` is empty: they are
        set aside in `.cut-off` instead.
        """
        record, root = self.record, self.root
        for file, was in record.touched.items():
            path = root / file
            if file not in record.whole and path.is_file() and state(path) != was:
                path.unlink()
        if record.folder:
            kept = {file: state(root / file) for file in record.whole}
            for path in [*below(root / record.folder), *above(root, record.folder)]:
                remove_if_new(path, root, record.before | kept)
        else:
            for path in [p for p in root.iterdir() if p.is_dir() and not p.is_symlink()]:
                if path.name in record.folders or path.name == ".cut-off":
                    continue
                if killed:
                    set_aside(path)
                else:
                    shutil.rmtree(path)
        self.end()


def marker_of(root: Path, name: str, folder: str) -> Path:
    """Data sets of one folder share the file: what is half of one is half of the other."""
    return root / f".fetching-{folder.replace('/', '-') or name}"


def state(path: Path) -> State:
    try:
        stat = path.lstat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def below(folder: Path) -> Iterator[Path]:
    """Everything below `folder`, what is inside a folder before the folder."""
    for parent, folders, files in os.walk(folder, topdown=False):
        yield from (Path(parent, name) for name in [*files, *folders])


def above(root: Path, folder: str) -> list[Path]:
    """`root/a/b`, `root/a` of the folder `a/b`."""
    path = root / folder
    return [path, *[p for p in path.parents if root in p.parents]]


def remove_if_new(path: Path, root: Path, before: dict[str, State]) -> None:
    """Remove a file that was not there or is not the same, or an empty folder that was not."""
    name = os.path.relpath(path, root)
    if path.is_dir() and not path.is_symlink():
        if name not in before and not any(path.iterdir()):
            path.rmdir()
    elif state(path) != before.get(name):
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    aside = folder.parent / ".cut-off"
    aside.mkdir(exist_ok=True)
    shutil.rmtree(aside / folder.name, ignore_errors=True)
    folder.rename(aside / folder.name)
    log.warning("%s came since a download was cut off: moved to %s", folder, aside)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait until no other process of this machine fetches into `root`; the lock leaves no trace."""
    lock = root / ".fetching"
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise ConfigError(f"data.root={root} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if state(lock) is not None and os.path.samestat(os.fstat(held), lock.stat()):
                try:
                    yield
                finally:
                    lock.unlink()
                return
        finally:
            os.close(held)

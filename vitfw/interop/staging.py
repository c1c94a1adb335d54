"""Where an export may be written, and how it gets there: whole, or not at all.

What is written lies in a folder beside its target, and is moved at the end; what it replaces is
moved back if that fails.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vitfw.errors import ConfigError

IN_A_FOLDER = frozenset(("config.json", "model.safetensors", "preprocessor_config.json"))


def parts_of(path: Path) -> list[Path]:
    """All that an export to `path` may consist of: weights of 2 GiB lie beside an ONNX graph."""
    return [path, path.with_name(f"{path.name}.data")] if path.suffix == ".onnx" else [path]


def there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def check_place(path: Path, is_folder: bool, overwrite: bool) -> None:
    """Whether an export may be written there; nothing is made.

    Raises:
        ConfigError: something is there already, or the folder takes no files.
    """
    with refusing(path):
        for part in filter(there, parts_of(path)):
            check_replaceable(part, is_folder, overwrite)
        folder = next(folder for folder in path.absolute().parents if there(folder))
        if not folder.is_dir():
            raise NotADirectoryError(0, f"{folder} is no folder")
        if not os.access(folder, os.W_OK):
            raise PermissionError(0, "no permission")


def check_replaceable(path: Path, is_folder: bool, overwrite: bool) -> None:
    """Raises ConfigError unless `overwrite`; a folder must hold an export and nothing else."""
    if path.is_dir() != is_folder:
        kind, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise ConfigError(f"output={path} is a {kind}, and a {wanted} is to be written")
    if is_folder and (others := sorted({p.name for p in path.iterdir()} - IN_A_FOLDER)):
        raise ConfigError(
            f"output={path} is a folder with {others[0]} in it, which is no part of an export; "
            "give the name of a new one"
        )
    if not overwrite and not (is_folder and not any(path.iterdir())):
        raise ConfigError(f"output={path} is there already; overwrite=true replaces it")


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """What the file system refuses, in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"output={path} cannot be written: {reason}") from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path of the same name to write to, in a folder beside; moved to `path` at a good end.

    Raises:
        ConfigError: the folder takes no files. What was at `path` is there again.
    """
    with folders_for(path):
        with refusing(path):
            name = f".{path.name[:40]}."
            folder = Path(tempfile.mkdtemp(prefix=name, suffix=".part", dir=path.parent))
        new, old = folder / "new", folder / "replaced"
        try:
            with refusing(path):
                new.mkdir()
                old.mkdir()
            yield new / path.name
            with refusing(path):
                give_ordinary_rights(new, folder / "sample")
                put(new, path, old)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            if not old.is_dir() or not any(old.iterdir()):  # else what could not be moved back
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def folders_for(path: Path) -> Iterator[None]:
    """The folders that `path` is to be in; those that were not there go again after an error."""
    with refusing(path):
        made = [folder for folder in path.absolute().parents if not there(folder)]
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def put(new: Path, path: Path, old: Path) -> None:
    """Move all in `new` beside `path`, and what was there to `old`; or leave all as it was."""
    entries = sorted(new.iterdir(), reverse=True)  # the data before the graph that names it
    replaced = [part for part in parts_of(path) if there(part)]
    if len(entries) == 1 and entries[0].is_file() and replaced in ([], [path]):
        entries[0].replace(path)  # at no time is there none
        return
    moves = [(part, old / part.name) for part in replaced]
    moves += [(entry, path.with_name(entry.name)) for entry in entries]
    with ExitStack() as undo:
        for source, target in moves:
            source.rename(target)
            undo.callback(target.rename, source)
        undo.pop_all()


def give_ordinary_rights(folder: Path, sample: Path) -> None:
    """Those of any new file; safetensors lets nobody but the owner read what it writes."""
    sample.touch()
    mode = sample.stat().st_mode
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)

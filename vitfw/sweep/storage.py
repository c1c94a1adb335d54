"""Where a study is kept: SQLite, a journal file, or any database that SQLAlchemy speaks to."""

import os
import re
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from vitfw.atomic import held
from vitfw.errors import ConfigError

JOURNAL, SQLITE = "journal", "sqlite:///"
HIDDEN = "***"  # stands for a password in what is shown and saved
PASSWORD_VARIABLE = "VITFW_STORAGE_PASSWORD"
WAIT_FOR_LOCK = 60.0  # seconds, of SQLite, where several workers write


def name_storage(storage: str | None, folder: Path) -> str:
    """The whole name of a storage: a URL, or `journal:PATH`. null is SQLite in the folder."""
    if storage is None:
        return f"{SQLITE}{folder.absolute() / 'study.db'}"
    if storage == JOURNAL:
        return f"{JOURNAL}:{folder.absolute() / 'study.journal'}"
    if storage.startswith(f"{JOURNAL}:"):
        return f"{JOURNAL}:{Path(storage.partition(':')[2]).expanduser().absolute()}"
    if storage.startswith(SQLITE) and (path := storage.removeprefix(SQLITE)):
        return f"{SQLITE}{Path(path).expanduser().absolute()}"
    return storage


def is_absent(name: str) -> bool:
    """Whether it is a file that does not exist yet, by its whole name."""
    kinds = (f"{JOURNAL}:", SQLITE)
    paths = [name.removeprefix(kind) for kind in kinds if name.startswith(kind)]
    return any(not Path(path.partition("?")[0]).exists() for path in paths)


def open_storage(name: str) -> BaseStorage:
    """By its whole name, as `name_storage` has it.

    Raises:
        ConfigError: it is no URL, a driver or the password is missing, the database or the folder
            is out of reach.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if name.startswith(f"{JOURNAL}:"):
            path = Path(name.removeprefix(f"{JOURNAL}:"))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        if not name.startswith(SQLITE):
            return RDBStorage(with_password(name))
        with held(Path(name.removeprefix(SQLITE)).parent):  # one makes the tables
            return RDBStorage(name, engine_kwargs={"connect_args": {"timeout": WAIT_FOR_LOCK}})
    except NoSuchModuleError as error:  # a kind of ArgumentError
        raise ConfigError(
            f"hydra.sweeper.storage={shown(name)} cannot be reached: {error}"
        ) from error
    except ArgumentError as error:
        raise ConfigError(
            f"hydra.sweeper.storage={shown(name)} is no storage; give null, journal, journal:PATH "
            "or a URL such as postgresql://user:password@host/database"
        ) from error
    except (ImportError, OSError, SQLAlchemyError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"hydra.sweeper.storage={shown(name)} cannot be reached: {reason}"
        ) from error


def with_password(url: str) -> str:
    """The URL of a database; a password of `***` is what the environment says it is.

    Raises:
        ConfigError: it says nothing.
    """
    parsed = make_url(url)
    if parsed.password != HIDDEN:
        return url
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise ConfigError(f"its password is not saved; set {PASSWORD_VARIABLE}")
    return parsed.set(password=password).render_as_string(hide_password=False)


def remember_password(url: str) -> None:
    """For whatever in this process opens the storage by its shown name."""
    try:
        password = make_url(url).password
    except (ArgumentError, ValueError):
        return
    if password not in (None, HIDDEN):
        os.environ[PASSWORD_VARIABLE] = password


def shown(name: str) -> str:
    """With `***` for passwords, also where the rest is no URL; else as it is."""
    name = re.sub(r"(?<=[?&])(password|passwd|pwd)=[^&]*", rf"\1={HIDDEN}", name)
    if name.startswith(f"{JOURNAL}:"):
        return name
    try:
        url = make_url(name)
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        return re.sub(r":(?!//).*@", f":{HIDDEN}@", name)
    return name if url.password is None else url.render_as_string(hide_password=True)

"""Where a study is kept: SQLite, a journal file, or any database that SQLAlchemy speaks to."""

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from vitfw.atomic import held
from vitfw.errors import ConfigError

JOURNAL = "journal"
WAIT_FOR_LOCK = 60.0  # seconds, of SQLite, where several workers write


def name_storage(storage: str | None, folder: Path) -> str:
    """The whole name of a storage: a URL, or `journal:PATH`. null is SQLite in the folder."""
    if storage is None:
        return f"sqlite:///{folder.absolute() / 'study.db'}"
    if storage == JOURNAL:
        return f"{JOURNAL}:{folder.absolute() / 'study.journal'}"
    if storage.startswith(f"{JOURNAL}:"):
        return f"{JOURNAL}:{Path(storage.partition(':')[2]).expanduser().absolute()}"
    if storage.startswith("sqlite:///") and (path := storage.removeprefix("sqlite:///")):
        return f"sqlite:///{Path(path).expanduser().absolute()}"
    return storage


def open_storage(name: str) -> BaseStorage:
    """By its whole name, as `name_storage` has it.

    Raises:
        ConfigError: it is no URL, a driver is missing, the database or the folder is out of reach.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if name.startswith(f"{JOURNAL}:"):
            path = Path(name.removeprefix(f"{JOURNAL}:"))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        if not name.startswith("sqlite:///"):
            return RDBStorage(name)
        with held(Path(name.removeprefix("sqlite:///")).parent):  # one makes the tables
            return RDBStorage(name, engine_kwargs={"connect_args": {"timeout": WAIT_FOR_LOCK}})
    except NoSuchModuleError as error:  # a kind of ArgumentError
        raise ConfigError(
            f"hydra.sweeper.storage={shown(name)} cannot be reached: {error}"
        ) from error
    except ArgumentError as error:
        raise ConfigError(
            f"hydra.sweeper.storage={name} is no storage; give null, journal, journal:PATH or a "
            "URL such as postgresql://user:password@host/database"
        ) from error
    except (ImportError, OSError, SQLAlchemyError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"hydra.sweeper.storage={shown(name)} cannot be reached: {reason}"
        ) from error


def shown(name: str) -> str:
    """Without the password."""
    if name.startswith(f"{JOURNAL}:"):
        return name
    try:
        return make_url(name).render_as_string(hide_password=True)
    except ArgumentError:
        return name

"""A study opens wherever it is kept, or says in one line why not."""

from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from vitfw.errors import ConfigError
from vitfw.sweep.storage import (
    PASSWORD_VARIABLE,
    is_absent,
    name_storage,
    open_storage,
    shown,
    with_password,
)


@pytest.mark.parametrize("storage", [None, "journal", "journal:elsewhere/j", "sqlite:///a/b.db"])
def test_a_storage_keeps_a_study_for_another_process(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    name = name_storage(storage, Path("sweep"))
    study = optuna.create_study(storage=open_storage(name), study_name="s")
    study.tell(study.ask(), 1.5)
    monkeypatch.chdir("/")  # the name is absolute
    again = optuna.load_study(study_name="s", storage=open_storage(name))
    assert [trial.value for trial in again.trials] == [1.5]


def test_without_a_storage_the_study_is_sqlite_in_the_folder(tmp_path):
    assert name_storage(None, tmp_path) == f"sqlite:///{tmp_path}/study.db"


@pytest.mark.parametrize(
    "storage",
    ["nonsense", "oracle9://host/db", "sqlite:////proc/no/study.db", "journal:/proc/no/j"],
)
def test_a_storage_out_of_reach_is_refused_in_one_line(storage):
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.storage=") as caught:
        open_storage(storage)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://me:secret@host/db",
        "postgresql//me:secret@host/db",
        "postgresql://me:secret@host:port/db",
        "my sql://me:sec:re/t@secret@host/db",
    ],
)
def test_a_password_is_not_shown(storage):
    assert "me:***@host" in shown(storage)
    assert "secret" not in shown(storage)
    with pytest.raises(ConfigError) as caught:
        open_storage(storage)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("storage", [None, "journal", "sqlite:////a b/c?d.db", "mysql://host/db"])
def test_a_storage_without_a_password_is_shown_as_it_is(storage):
    name = name_storage(storage, Path("sweep"))
    assert shown(name) == name


def test_a_password_that_is_not_shown_comes_from_the_environment(monkeypatch):
    url = "postgresql://me:p%40ss/word@host/db"
    monkeypatch.setenv(PASSWORD_VARIABLE, "p@ss/word")
    assert make_url(with_password(shown(url))) == make_url(url)
    assert with_password(url) == url
    monkeypatch.delenv(PASSWORD_VARIABLE)
    with pytest.raises(ConfigError, match=f"me:.*set {PASSWORD_VARIABLE}"):
        open_storage(shown(url))


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_file_is_absent_until_it_is_opened(tmp_path, storage):
    name = name_storage(storage, tmp_path)
    assert is_absent(name)
    optuna.create_study(storage=open_storage(name), study_name="s")
    assert not is_absent(name)
    assert not is_absent("mysql://host/db")

"""A study opens wherever it is kept, or says in one line why not."""

from pathlib import Path

import optuna
import pytest

from vitfw.errors import ConfigError
from vitfw.sweep.storage import name_storage, open_storage, shown


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


def test_a_password_is_not_shown():
    assert "secret" not in shown("postgresql://me:secret@host/db")

"""Run folders: named by what was typed, held by one process, made only when a run begins."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfw.errors import ConfigError
from vitfw.run_directory import LONGEST_NAME, RunDirectory, choose_run_directory, run_name

TYPED = ["optimizer.lr=0.01", "data.batch_size=32"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def choose(typed=TYPED, go_on=True, run_dir=None) -> RunDirectory:
    return choose_run_directory(run_dir, "digits", typed, go_on)


def leave_unfinished(directory: RunDirectory) -> None:
    directory.last_checkpoint.parent.mkdir(parents=True)
    directory.last_checkpoint.touch()


# ── names ─────────────────────────────────────────────────────────────────────────────────────


def test_the_name_follows_from_what_was_typed_in_any_order():
    assert run_name(TYPED) == run_name(TYPED[::-1])
    assert run_name(TYPED) != run_name(["optimizer.lr=0.02", "data.batch_size=32"])
    assert run_name([]) == "default"


def test_where_a_run_is_put_and_how_it_starts_is_no_part_of_its_name():
    starts = ["run_dir=/x", "resume=null", "experiment=e"]
    assert run_name([*starts, "hydra.verbose=true", *TYPED]) == run_name(TYPED)
    assert run_name(["model.depth=3"]) != run_name(["model.depth=4"])


def test_a_long_name_ends_in_a_digest_that_is_the_same_on_every_machine():
    name = run_name([f"model.option_{i}={i}" for i in range(50)])
    assert name.startswith("model.option_0-0_model.option_10-10_model.option_11-11_")
    assert name.endswith("_53f8c877") and len(name) == LONGEST_NAME


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=8))
def test_whatever_was_typed_gives_one_folder_that_can_be_made(overrides):
    name = run_name(overrides)
    assert 0 < len(name) <= LONGEST_NAME
    assert name not in (".", "..") and not set(name) & set('/\\ =:*?"<>|\n\0')
    assert not name.startswith((".", "-"))


def test_long_commands_that_end_differently_have_different_names():
    common = [f"data.option_{i}=1" for i in range(20)]
    assert run_name([*common, "z=1"]) != run_name([*common, "z=2"])


# ── which folder ──────────────────────────────────────────────────────────────────────────────


def test_the_same_command_finds_its_unfinished_run():
    first = choose()
    assert first.path.parent == Path("runs/digits")
    leave_unfinished(first)
    assert choose().path == first.path


def test_a_finished_run_is_left_alone_and_the_next_number_taken():
    first = choose()
    first.open()
    first.write_metrics({"test/accuracy": 0.9})
    first.close()
    second = choose()
    assert second.path == first.path.with_name(f"{first.path.name}-2")
    second.open()
    second.write_metrics({})
    second.close()
    assert choose().path == first.path.with_name(f"{first.path.name}-3")


def test_starting_anew_leaves_an_unfinished_run_alone():
    first = choose()
    leave_unfinished(first)
    assert choose(go_on=False).path == first.path.with_name(f"{first.path.name}-2")
    assert choose(go_on=True).path == first.path


def test_a_run_that_never_reached_a_checkpoint_is_started_again_in_its_folder():
    first = choose()
    first.open()
    first.close()
    assert choose(go_on=False).path == choose(go_on=True).path == first.path


def test_a_run_dir_with_a_finished_run_is_refused(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "metrics.json").write_text("{}")
    with pytest.raises(ConfigError, match="mine holds a finished run"):
        choose(run_dir="mine")


def test_a_run_dir_with_an_unfinished_run_is_gone_on_with_or_refused(folder):
    leave_unfinished(RunDirectory(folder / "mine"))
    assert choose(run_dir=str(folder / "mine"), go_on=True).path == folder / "mine"
    with pytest.raises(ConfigError, match="holds an unfinished run; resume=auto goes on with it"):
        choose(run_dir=str(folder / "mine"), go_on=False)


# ── the lock ──────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_created_before_open(folder):
    directory = choose()
    assert not directory.finished and not directory.last_checkpoint.exists()
    assert list(folder.iterdir()) == []
    directory.open()
    assert directory.path.is_dir()
    directory.close()
    assert list(directory.path.iterdir()) == []


def open_in_another_process(path: Path) -> str:
    """What came of it; the process ends without closing the folder, as a killed one does."""
    context = multiprocessing.get_context("fork")  # a fresh interpreter takes seconds to import
    receiver, sender = context.Pipe(duplex=False)

    def child():
        try:
            RunDirectory(path).open()
            sender.send("opened")
        except ConfigError as error:
            sender.send(str(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert receiver.poll(60)
    process.join()
    return receiver.recv()


def test_a_second_process_is_refused_while_the_first_one_writes():
    directory = choose()
    directory.open()
    try:
        answer = open_in_another_process(directory.path)
    finally:
        directory.close()
    assert answer.startswith("another process is training in")
    assert "run_dir=" in answer
    assert open_in_another_process(directory.path) == "opened"


def test_a_killed_process_leaves_no_lock_behind():
    directory = choose()
    assert open_in_another_process(directory.path) == "opened"  # it ended without close()
    directory.open()
    directory.close()


def test_a_folder_that_cannot_be_written_is_refused(folder):
    (folder / "file").touch()
    with pytest.raises(ConfigError, match=r"run_dir .*file/run cannot be written"):
        RunDirectory(folder / "file" / "run").open()


# ── the files ─────────────────────────────────────────────────────────────────────────────────


def test_clear_removes_what_a_start_without_checkpoint_left_and_nothing_else():
    directory = choose()
    directory.open()
    for name in ("metrics.csv", "train.log", "report.html", "events.out.tfevents.1", "notes.txt"):
        (directory.path / name).touch()
    directory.clear()
    assert len(list(directory.path.iterdir())) == 5  # without a config it is no run of ours
    (directory.path / "config.yaml").touch()
    directory.clear()
    assert sorted(p.name for p in directory.path.iterdir()) == ["config.yaml", "notes.txt"]
    directory.close()


def test_a_run_dir_with_files_of_something_else_is_refused(folder):
    (folder / "train.log").write_text("mine")
    with pytest.raises(ConfigError, match="holds files of something else"):
        choose(run_dir=str(folder))
    assert (folder / "train.log").read_text() == "mine"


def test_config_and_metrics_can_be_read_back():
    directory = choose()
    directory.open()
    config = {"seed": 0, "model": {"img_size": [8, 8], "qk_scale": None}, "name": "Übung"}
    directory.write_config(config, TYPED)
    directory.write_metrics({"test/accuracy": 0.5, "val/accuracy_best": None})
    directory.close()
    read = {p.name: p.read_text(encoding="utf-8") for p in directory.path.iterdir()}
    assert yaml.safe_load(read["config.yaml"]) == config
    assert yaml.safe_load(read["overrides.yaml"]) == TYPED
    assert json.loads(read["metrics.json"]) == {"test/accuracy": 0.5, "val/accuracy_best": None}
    assert directory.finished

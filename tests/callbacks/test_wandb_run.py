"""W&B offline, read back from the file that it would send."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from vitfw.building import build
from vitfw.callbacks.loggers import end_logging, log_config
from vitfw.callbacks.wandb_run import STEP, WandbRun
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError

CONFIG = {"optimizer.lr": 0.001, "data.name": "digits", "run_dir": "somewhere"}
BLOCK, HEAD = 2**15, 7


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def offline(tmp_path):
    def make() -> WandbRun:
        return WandbRun(run_dir=str(tmp_path / "run"), mode="offline")

    (tmp_path / "run").mkdir()
    return make


def sent(folder: Path) -> dict[str, list]:
    """The records of all offline sessions below `folder`, by kind; they end soon after."""
    until = time.monotonic() + 30
    while True:
        files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
        sessions = [list(records(file.read_bytes())) for file in files]
        if all(any(kind == "exit" for kind, _ in session) for session in sessions):
            break
        assert time.monotonic() < until, "W&B did not finish its file"
        time.sleep(0.02)
    found: dict[str, list] = {}
    for kind, record in (pair for session in sessions for pair in session):
        found.setdefault(kind, []).append(record)
    return found


def records(content: bytes) -> Iterator[tuple[str, Any]]:
    """LevelDB's log of protobuf messages, behind seven bytes of W&B's own.

    Blocks of 32 KiB of chunks, each with a checksum, a length and a kind (1 whole, 4 last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    place, message = HEAD, b""
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + HEAD + length > len(content):
            return  # not all is there yet
        message += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in (1, 4):
            record = Record.FromString(message)
            name = record.WhichOneof("record_type")
            yield name, getattr(record, name)
            message = b""


def points(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in the order they were logged."""
    rows = []
    for record in sent(folder)["history"]:
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.item}
        if metric in row:
            rows.append((row[STEP], row[metric]))
    return rows


def test_config_metrics_and_end_arrive(offline, tmp_path):
    logger = offline()
    log_config([logger], CONFIG)
    logger.log_metrics({"train/loss": 2.5}, step=50)
    logger.log_metrics({"class_accuracy/T-shirt/top": 0.75, "train/loss": 1.5}, step=100)
    logger.finalize("success")  # as Lightning does after the fit, and before the test
    logger.log_metrics({"val/accuracy_best": 0.875}, step=100)
    end_logging([logger], "finished")

    folder = tmp_path / "run"
    there = sent(folder)
    told = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in [*there.get("config", []), *(run.config for run in there["run"])]
        for item in record.update
    }
    assert told.items() >= CONFIG.items()
    assert points(folder, "train/loss") == [(50, 2.5), (100, 1.5)]
    assert points(folder, "class_accuracy/T-shirt/top") == [(100, 0.75)]
    assert points(folder, "val/accuracy_best") == [(100, 0.875)]
    assert there["run"][0].display_name == "run"
    assert there["run"][0].project == "vitfw"
    assert [record.exit_code for record in there["exit"]] == [0]


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_run_that_broke_is_no_success(offline, tmp_path, status):
    logger = offline()
    logger.log_metrics({"train/loss": 2.5}, step=50)
    end_logging([logger], status)
    assert [record.exit_code for record in sent(tmp_path / "run")["exit"]] == [1]


def test_a_run_that_goes_on_keeps_its_id_and_another_folder_has_its_own(offline, tmp_path):
    for _ in range(2):
        logger = offline()
        logger.log_metrics({"train/loss": 2.5}, step=50)
        end_logging([logger], "finished")
    other = WandbRun(run_dir=str(tmp_path / "other"), mode="offline")
    (tmp_path / "other").mkdir()
    other.log_metrics({"train/loss": 2.5}, step=50)
    end_logging([other], "finished")
    mine = {run.run_id for run in sent(tmp_path / "run")["run"]}
    assert len(mine) == 1
    assert mine.isdisjoint(run.run_id for run in sent(tmp_path / "other")["run"])


def test_two_runs_of_one_process_do_not_mix(offline, tmp_path):
    """As the jobs of a sweep do."""
    (tmp_path / "other").mkdir()
    loggers = [offline(), WandbRun(run_dir=str(tmp_path / "other"), mode="offline")]
    for value, logger in enumerate(loggers):
        logger.log_metrics({"train/loss": float(value)}, step=50)
    end_logging(loggers, "finished")
    assert points(tmp_path / "run", "train/loss") == [(50, 0.0)]
    assert points(tmp_path / "other", "train/loss") == [(50, 1.0)]


class Resumed:
    """A run that the server knows: for a real one, a server is needed."""

    resumed = True
    summary = {STEP: 150}  # noqa: RUF012

    def __init__(self):
        self.told = []

    def log(self, metrics):
        self.told.append(metrics[STEP])


def test_steps_that_a_resumed_run_does_again_are_not_told_twice(offline, monkeypatch):
    there = Resumed()
    monkeypatch.setattr(WandbLogger, "experiment", property(lambda self: there))
    logger = offline()
    for step in (50, 100, 150, 200):
        logger.log_metrics({"train/loss": 1.0}, step=step)
        logger._experiment = there
    assert there.told == [150, 200]  # at 150 the test may still be to come


def test_without_a_key_it_is_said_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = WandbRun(run_dir=str(tmp_path), mode="online")
    with pytest.raises(ConfigError, match=r"wandb login.*logger\.wandb\.mode=offline"):
        logger.log_metrics({"train/loss": 1.0}, step=1)


def test_a_missing_package_is_named(monkeypatch):
    node = to_plain(compose("train", ["logger=wandb", "run_dir=x"]))["logger"]["wandb"]
    monkeypatch.setattr("vitfw.callbacks.wandb_run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'vitfw\[wandb\]'"):
        build(node)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match=r"mode=off is not one of: online, offline, disabled"):
        WandbRun(run_dir="x", mode="off")


def test_nothing_is_begun_before_something_is_logged(offline, tmp_path):
    end_logging([offline()], "finished")
    assert list((tmp_path / "run").iterdir()) == []

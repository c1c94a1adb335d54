"""What is left of a run that broke, was stopped, or was given up by a search."""

import errno
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from report_page import Page
from torch._utils import ExceptionWrapper

from vitfw.cli.main import main
from vitfw.config import compose, to_plain
from vitfw.figure import Figure
from vitfw.finish.account import figures_of, predictions_of
from vitfw.finish.cause import going_on, in_one_line, ways_out
from vitfw.finish.closing import command_words
from vitfw.finish.run import Run
from vitfw.run_directory import RunDirectory
from vitfw.target import target_of
from vitfw.training.schedules import cooldown

TINY = "model=vit_mini4 model.embed_dim=16 model.depth=1 model.num_heads=2 trainer.accelerator=cpu"
FAKE = "data=fake data.num_classes=3 data.num_images=160 data.native_size=8 data.batch_size=32"
SHORT = f"{TINY} {FAKE} trainer.max_epochs=2 logger=csv data.val_share=0.4".split()
BATCH_END = "vitfw.callbacks.throughput.Throughput.on_train_batch_end"


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("vitfw.cli.train.prepare_process", lambda: None)

    def run(code: int, *words: str) -> tuple[Path, str]:
        folder = tmp_path / "some" / "run"
        assert main(["train", *words, *SHORT, f"run_dir={folder}"]) == code, capsys.readouterr().err
        return folder, Page((folder / "report.html").read_text()).text

    return run


def test_a_run_that_breaks_leaves_where_why_and_what_was_reached(train, monkeypatch, caplog):
    caplog.set_level("INFO", logger="vitfw")

    def breaks(self, trainer, *args):
        if trainer.global_step == 4:
            raise RuntimeError("the <cable> was pulled\nand more")

    monkeypatch.setattr(BATCH_END, breaks)
    folder, text = train(1)
    assert "Failed: training, epoch 2 of 2, batch 1 of 3 (4 steps done)" in text
    assert "RuntimeError: the <cable> was pulled" in text and "Traceback (most recent" in text
    assert "Epochs done: 1 of 2, steps 4; best validation accuracy" in text
    assert "goes on from checkpoints/last.ckpt" in text
    assert "INFO fake: 96 training images" in text and "Environment" in text
    assert "Predictions of test" not in text
    assert not (folder / "metrics.json").exists()


def test_a_run_that_is_stopped_leaves_how_it_goes_on(train, monkeypatch):
    def stops(self, trainer, *args):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(BATCH_END, stops)
    folder, text = train(143)
    assert "Stopped: training, epoch 1 of 2, batch 2 of 3 (2 steps done)" in text
    assert "Asked to stop by SIGTERM." in text and "The same command goes on from" in text
    assert (folder / "checkpoints" / "last.ckpt").is_file() and "Traceback" not in text


def test_a_pruned_run_is_not_tested_and_says_so(train, monkeypatch, capsys):
    monkeypatch.setattr(Run, "pruned", property(lambda self: True))
    folder, text = train(0)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pruned"] is True and metrics["test/accuracy"] is None
    assert "Pruned by the search: after epoch 2 of 2, step 6" in text
    assert "pruned after" in capsys.readouterr().out


class Unable:
    """Fails whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("gone")


def made_run(folder: Path, **changes: Any) -> Run:
    parts: dict[str, Any] = {
        "trainer": SimpleNamespace(world_size=1, accumulate_grad_batches=1),
        "learner": None,
        "data": SimpleNamespace(classes=("ant", "bee"), num_workers=4, batch_size=64),
        "callbacks": {},
        "cfg": to_plain(compose("train", ["run_dir=x"])),
        "overrides": ["optimizer.lr=0.1"],
        "directory": RunDirectory(folder),
    }
    return Run(**parts | changes)


def saved(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")


def guess(truth: int, taken_for: int) -> SimpleNamespace:
    image = torch.zeros(1, 4, 4, dtype=torch.uint8)
    return SimpleNamespace(image=image, truth=truth, guess=taken_for, confidence=0.5)


def test_without_a_test_the_predictions_are_those_of_the_validation(tmp_path):
    tested, validated = (
        SimpleNamespace(
            totals=n * torch.ones(3, 2),
            confusion=n * torch.eye(2),
            mistakes=[guess(0, 1)],
            best=[guess(1, 1)],
        )
        for n in (1, 2)
    )
    pictures = SimpleNamespace(tally=validated)
    run = made_run(
        tmp_path, callbacks={"prediction_record": tested, "validation_pictures": pictures}
    )
    with_test, without = predictions_of(run, tested=True), predictions_of(run, tested=False)
    assert (with_test.split, without.split) == ("test", "validation")
    assert torch.equal(without.confusion, 2 * with_test.confusion)
    assert torch.equal(without.totals, 2 * with_test.totals)
    assert [(p.truth, p.guess) for p in (*without.worst, *without.best)] == [
        ("ant", "bee"),
        ("bee", "bee"),
    ]
    assert predictions_of(made_run(tmp_path), tested=False).confusion is None


def test_pictures_of_a_callback_that_fails_are_left_out(tmp_path):
    figure = Figure("Attention", Image.new("L", (4, 4)))
    drawn = SimpleNamespace(report_figures=lambda: [figure])
    broken = SimpleNamespace(report_figures=lambda: Unable().figures)
    callbacks = {"a": broken, "b": SimpleNamespace(), "c": drawn}
    assert figures_of(made_run(tmp_path, callbacks=callbacks)) == [figure]


def test_pruned_is_what_the_trial_report_says(tmp_path):
    told = {"trial_report": SimpleNamespace(pruned=True)}
    assert made_run(tmp_path, callbacks=told).pruned and not made_run(tmp_path).pruned


def test_an_error_from_a_worker_process_is_told_by_its_own_words():
    try:
        raise ValueError("cannot read photo.jpg")
    except ValueError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(ValueError, match="worker") as caught:
        wrapped.reraise()
    assert in_one_line(caught.value) == "ValueError: cannot read photo.jpg"
    assert in_one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("error", "typed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), "auto_batch_size=true"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "auto_batch_size=true"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal"), "data.num_workers=2"),
    ],
)
def test_what_helps_against_want_of_memory_is_named(tmp_path, error, typed):
    (advice,) = ways_out(error, made_run(tmp_path))
    assert advice.typed == typed


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("auto_batch_size=true", "data.batch_size=32 trainer.accumulate_grad_batches=2"),
        ("method=mae", "data.batch_size=32 trainer.accumulate_grad_batches=2"),
        ("optimizer=sam", "data.batch_size=32"),
    ],
)
def test_where_no_batch_can_be_found_by_trying_the_half_is_proposed(tmp_path, words, typed):
    cfg = to_plain(compose("train", ["run_dir=x", words]))
    (advice,) = ways_out(MemoryError(), made_run(tmp_path, cfg=cfg))
    assert advice.typed == typed


def test_several_processes_are_told_to_halve_the_batch_themselves(tmp_path):
    many = SimpleNamespace(world_size=4, accumulate_grad_batches=2)
    (advice,) = ways_out(MemoryError(), made_run(tmp_path, trainer=many))
    assert advice.typed == "data.batch_size=32 trainer.accumulate_grad_batches=4"


def test_a_full_disk_is_named_and_a_bug_is_not_explained_away(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (advice,) = ways_out(full, made_run(tmp_path))
    assert "disk is full" in advice.words
    assert ways_out(ValueError("shapes"), made_run(tmp_path)) == []


def test_before_anything_was_saved_the_same_command_begins_anew(tmp_path):
    advice = going_on(made_run(tmp_path))
    assert "begins anew" in advice.words and advice.typed == "vitfw train optimizer.lr=0.1"


@pytest.mark.parametrize("resume", [None, "elsewhere/last.ckpt"])
def test_a_run_that_did_not_resume_is_told_to(tmp_path, resume):
    saved(tmp_path)
    cfg = {"resume": resume, "scheduler": {"_target_": "x"}}
    words = ["optimizer.lr=0.1", f"resume={resume}"]
    typed = shlex.split(going_on(made_run(tmp_path, cfg=cfg, overrides=words)).typed)
    assert typed == ["vitfw", "train", "optimizer.lr=0.1", "resume=auto"]


def test_a_cooldown_goes_on_by_the_command_that_began_it(tmp_path):
    saved(tmp_path)
    cfg = {"resume": "r/last.ckpt", "scheduler": {"_target_": target_of(cooldown)}}
    words = ["scheduler=cooldown", "resume=r/last.ckpt"]
    typed = shlex.split(going_on(made_run(tmp_path, cfg=cfg, overrides=words)).typed)
    assert typed == ["vitfw", "train", *words]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train.py", "seed=1"], ["python", "train.py", "seed=1"]),
        (["/bin/vitfw", "train", "seed=1"], ["vitfw", "train", "seed=1"]),
        (["vitfw/__main__.py", "train", "seed=1"], ["vitfw", "train", "seed=1"]),
        (["train.py", "-m", "seed=1,2"], ["vitfw", "train", "seed=1"]),
        (["launcher", "x"], ["vitfw", "train", "seed=1"]),
    ],
)
def test_the_command_is_what_was_typed_and_of_a_sweep_that_of_the_job(monkeypatch, argv, words):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_words(["seed=1"]) == words

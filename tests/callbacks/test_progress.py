"""What is shown of a training and of an evaluation, on a terminal and in a log."""

import io
import logging
import re
import time

import lightning as L
import pytest
from rich.console import Console
from tiny_fit import batches, sgd, small_net

from vitfw import console as shown
from vitfw import progress_bar
from vitfw.callbacks import progress
from vitfw.callbacks.progress import RunProgress
from vitfw.training.classifier import Classifier

pytestmark = pytest.mark.usefixtures("impatient")


class Slow(L.Callback):
    """Each batch of an evaluation takes a moment."""

    def on_validation_batch_end(self, *_) -> None:
        time.sleep(0.05)

    def on_test_batch_end(self, *_) -> None:
        time.sleep(0.05)


class Breaks(L.Callback):
    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 4:
            raise OSError("the disk is gone")


@pytest.fixture
def impatient(monkeypatch):
    """Lines and bars come a hundred times as soon."""
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_LINES", 0.05)
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_BAR", 0.02)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_BARS", 0.01)


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(shown.log, "propagate", True)
    caplog.set_level(logging.INFO, "vitfw")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def screen(monkeypatch):
    """What is drawn on a terminal of 80 columns."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    for module in (shown, progress, progress_bar):
        monkeypatch.setattr(module, "console", terminal)
    return lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.file.getvalue())


class Bars(L.Callback):
    """How far the bar of the training is after each batch, and how far it goes."""

    def __init__(self):
        self.seen: list[tuple[float, float | None]] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        (task,) = trainer.progress_bar_callback._progress.tasks
        self.seen.append((task.completed, task.total))


def trainer_of(*callbacks: L.Callback, **options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        **{"max_epochs": 1, **options},
        logger=False,
        callbacks=[RunProgress(), Slow(), *callbacks],
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def counts(lines: list[str], what: str) -> list[tuple[str, ...]]:
    found = [re.match(rf"{what}: (\d+)/(\d+) ", line) for line in lines]
    return [match.groups() for match in found if match]


@pytest.mark.parametrize("what", ["test", "validation"])
def test_an_evaluation_in_a_log_is_told_up_to_its_last_batch(lines, what):
    trainer = trainer_of()
    measure = trainer.test if what == "test" else trainer.validate
    measure(Classifier(small_net(), 3), batches(8), verbose=False)
    told = counts(lines(), what)
    assert len(told) >= 2
    assert told[-1] == ("8", "8")


def test_an_evaluation_that_breaks_is_not_told_to_its_end(lines):
    with pytest.raises(OSError, match="the disk is gone"):
        trainer_of(Breaks()).test(Classifier(small_net(), 3), batches(8), verbose=False)
    assert counts(lines(), "test")
    assert ("8", "8") not in counts(lines(), "test")


def test_an_evaluation_on_a_terminal_has_a_bar_within_80_columns(screen):
    trainer_of().test(Classifier(small_net(), 3), batches(8), verbose=False)
    drawn = re.split(r"[\r\n]", screen())
    assert any(re.match(r"test .*\d+% .*batches/s", line) for line in drawn)
    assert max(map(len, drawn)) <= 80


def test_a_training_on_a_terminal_names_the_validation_in_its_one_bar(screen):
    learner = Classifier(small_net(), 3, optimizer=sgd)
    trainer_of().fit(learner, batches(4), batches(8))
    drawn = re.split(r"[\r\n]", screen())
    assert any(line.startswith("epoch 1/1") for line in drawn)
    assert any(line.startswith("validation") for line in drawn)
    assert max(map(len, drawn)) <= 80


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("gathered, steps, taken", [(1, 6, 6), (2, 5, 10), (3, 3, 7), (9, 2, 8)])
def test_the_bar_of_a_training_is_full_after_its_last_batch(gathered, steps, taken):
    """Four batches make an epoch; those that are left at its end are a step, too."""
    bars = Bars()
    limits = {"max_epochs": -1, "max_steps": steps, "accumulate_grad_batches": gathered}
    trainer_of(bars, **limits).fit(Classifier(small_net(), 3, optimizer=sgd), batches(4))
    assert bars.seen == [(number, taken) for number in range(1, taken + 1)]


def test_short_evaluations_are_not_told_of(lines, monkeypatch):
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_LINES", 10.0)
    trainer_of().test(Classifier(small_net(), 3), batches(2), verbose=False)
    assert counts(lines(), "test") == []

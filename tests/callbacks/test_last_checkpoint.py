"""When `last.ckpt` is written, and what a stopped run leaves."""

import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks import last_checkpoint
from vitfw.callbacks.last_checkpoint import LastCheckpoint
from vitfw.checkpoint import AtomicCheckpointIO
from vitfw.data.datamodule import ImageData
from vitfw.training.classifier import Classifier

BATCHES = 10


class Saves(LastCheckpoint):
    """Also remembers after how many optimizer steps it saved, on a clock that stands still."""

    def __init__(self, dirpath, **options):
        super().__init__(str(dirpath), **options)
        self.steps: list[int] = []

    def _save(self, trainer):
        super()._save(trainer)
        saved = torch.load(self.path, weights_only=True)
        assert saved["global_step"] == trainer.global_step
        self.steps.append(trainer.global_step)


class Signals(L.Callback):
    """Sends this process a signal in the middle of a batch."""

    def __init__(self, number: int, at_step: int):
        self.number, self.at_step = number, at_step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at_step:
            signal.raise_signal(self.number)


@pytest.fixture(autouse=True)
def still_clock(monkeypatch):
    """No time passes between saves, however slow the machine."""
    monkeypatch.setattr(last_checkpoint.time, "monotonic", lambda: 100.0)


def fit(folder, *callbacks, **options) -> L.Trainer:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=0.1)  # noqa: E731
    data = TensorDataset(torch.randn(BATCHES * 2, 3, 2, 2), torch.arange(BATCHES * 2) % 2)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Classifier(net, 2, optimizer=optimizer), DataLoader(data, batch_size=2))
    return trainer


def test_saved_every_n_steps_and_at_the_end_of_each_epoch(tmp_path):
    last = Saves(tmp_path, every_n_steps=4, min_seconds=0.0)
    fit(tmp_path, last, max_epochs=2)
    assert last.steps == [4, 8, 10, 12, 16, 20]


def test_a_step_that_ends_an_epoch_is_saved_once(tmp_path):
    last = Saves(tmp_path, every_n_steps=5, min_seconds=0.0)
    fit(tmp_path, last, max_epochs=2)
    assert last.steps == [5, 10, 15, 20]


def test_not_saved_while_gradients_are_being_accumulated(tmp_path):
    last = Saves(tmp_path, every_n_steps=2, min_seconds=0.0)
    fit(tmp_path, last, max_epochs=1, accumulate_grad_batches=3)
    assert last.steps == [2, 4]  # batches 6 and 10; not at batches 7 and 8


def test_a_young_save_is_not_repeated_but_the_last_one_is_made(tmp_path):
    last = Saves(tmp_path, min_seconds=60.0)
    fit(tmp_path, last, max_epochs=4)
    assert last.steps == [10, 40]


def test_a_run_limited_by_steps_is_saved_at_its_end(tmp_path):
    last = Saves(tmp_path, min_seconds=60.0)
    fit(tmp_path, last, max_epochs=-1, max_steps=25)
    assert last.steps == [10, 25]


def test_a_run_stopped_by_another_callback_is_saved_at_its_end(tmp_path):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step >= 13

    last = Saves(tmp_path, min_seconds=60.0)
    fit(tmp_path, last, Stop(), max_epochs=5)
    assert last.steps[-1] in (13, 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_lets_the_batch_end_then_saves_and_stops(tmp_path, number):
    last = Saves(tmp_path, min_seconds=60.0)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, last, Signals(number, at_step=13), max_epochs=5)
    assert last.steps == [10, 14]
    assert last.interrupted == (number == signal.SIGINT)


def test_a_failure_is_not_saved(tmp_path):
    class Fail(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 3:
                raise RuntimeError("out of memory")

    last = Saves(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, last, Fail(), max_epochs=1)
    assert last.steps == []


@pytest.mark.parametrize("ends_in", ["success", "failure"])
def test_ctrl_c_is_given_back_when_training_is_over(tmp_path, ends_in):
    class Fail(L.Callback):
        def on_train_start(self, *args):
            if ends_in == "failure":
                raise RuntimeError

    before = signal.getsignal(signal.SIGINT)
    try:
        fit(tmp_path, LastCheckpoint(str(tmp_path)), Fail(), max_epochs=1)
    except RuntimeError:
        assert ends_in == "failure"
    assert signal.getsignal(signal.SIGINT) == before


# a run that goes on


class At(L.Callback):
    """Does something at the n-th call of a hook."""

    def __init__(self, hook: str, call: int, action):
        self.calls = 0
        self.call, self.action = call, action
        setattr(self, hook, self.count)

    def count(self, *_):
        self.calls += 1
        if self.calls == self.call:
            self.action()


class Validated(L.Callback):
    """The accuracy and loss of every validation, by step."""

    def __init__(self):
        self.found: dict[int, list[float]] = {}

    def on_validation_end(self, trainer, pl_module):
        metrics = trainer.callback_metrics
        self.found[trainer.global_step] = [metrics[f"val/{m}"].item() for m in ("accuracy", "loss")]


def train(folder, *callbacks, every_n_steps=1000, **options) -> dict[str, torch.Tensor]:
    """Three epochs of six batches, from last.ckpt where there is one; weights and momenta."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    sgd = lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    last = LastCheckpoint(str(folder), every_n_steps)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[last, *callbacks],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=3,
        plugins=[AtomicCheckpointIO()],
        **options,
    )
    data = ImageData("digits", batch_size=200, eval_batch_size=40)
    path = last.path if last.path.exists() else None
    trainer.fit(Classifier(net, 10, optimizer=sgd), datamodule=data, ckpt_path=path)
    momenta = trainer.optimizers[0].state_dict()["state"]
    return {**net.state_dict(), **{f"m{i}": s["momentum_buffer"] for i, s in momenta.items()}}


def stop():
    signal.raise_signal(signal.SIGTERM)


GATHERING = {"accumulate_grad_batches": 3}
IN_MID_EPOCH = {**GATHERING, "val_check_interval": 4}


@pytest.mark.parametrize(
    ("hook", "call", "options"),
    [
        ("on_train_batch_start", 7, GATHERING),  # the first of three
        ("on_train_batch_start", 8, GATHERING),
        ("on_train_batch_start", 9, GATHERING),
        ("on_train_batch_end", 8, {"accumulate_grad_batches": 4}),  # the last step is of two
        ("on_train_batch_start", 6, {}),  # the last before a validation
        ("on_validation_batch_start", 2, {}),
        ("on_validation_batch_start", 3, IN_MID_EPOCH),
        ("on_validation_end", 1, IN_MID_EPOCH),
        ("on_train_epoch_end", 1, {}),
    ],
    ids=str,
)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path, hook, call, options):
    whole, parts = Validated(), Validated()
    expected = train(tmp_path / "whole", whole, **options)
    with pytest.raises(SIGTERMException):
        train(tmp_path / "parts", parts, At(hook, call, stop), **options)
    found = train(tmp_path / "parts", parts, **options)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert parts.found == whole.found


def test_gradients_are_in_the_checkpoint_only_where_some_are_gathered(tmp_path):
    with pytest.raises(SIGTERMException):
        train(tmp_path, At("on_train_batch_end", 4, stop), **GATHERING)
    gathered = torch.load(tmp_path / "last.ckpt", weights_only=True)["gradients"]
    assert {name: tuple(g.shape) for name, g in gathered.items()} == {
        "net.1.weight": (10, 64),
        "net.1.bias": (10,),
    }
    train(tmp_path, **GATHERING)
    assert "gradients" not in torch.load(tmp_path / "last.ckpt", weights_only=True)


def test_a_run_killed_in_a_validation_makes_it_when_it_goes_on(tmp_path):
    """Killed: nothing is saved at that time, so the save in use is an earlier one."""

    def power_cut():
        raise RuntimeError("power cut")

    options = {"every_n_steps": 2, "val_check_interval": 4}
    whole, parts = Validated(), Validated()
    expected = train(tmp_path / "whole", whole, **options)
    for call in (2, 6):  # in the first validation; then in the one after that
        with pytest.raises(RuntimeError, match="power cut"):
            train(
                tmp_path / "parts",
                parts,
                At("on_validation_batch_start", call, power_cut),
                **options,
            )
    found = train(tmp_path / "parts", parts, **options)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert parts.found == whole.found


def test_while_a_stop_waits_for_a_validation_there_is_a_checkpoint_already(tmp_path):
    saved = []
    look = At(
        "on_validation_batch_start", 3, lambda: saved.append((tmp_path / "last.ckpt").exists())
    )
    with pytest.raises(SIGTERMException):
        train(tmp_path, At("on_validation_batch_start", 2, stop), look)
    assert saved == [True]


def test_a_stop_during_the_test_leaves_the_checkpoint_as_it_is(tmp_path):
    """The test has loaded other weights, those of best.ckpt."""
    last = Saves(tmp_path, min_seconds=60.0)
    trainer = fit(tmp_path, last, max_epochs=1)
    images = DataLoader(TensorDataset(torch.randn(8, 3, 2, 2), torch.arange(8) % 2), batch_size=2)
    trainer.callbacks.append(At("on_test_batch_start", 2, stop))
    with pytest.raises(SIGTERMException):
        trainer.test(trainer.lightning_module, images, verbose=False)
    assert last.steps == [10]

"""The phases of a step, against a clock that only the phases turn."""

import time
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tiny_fit import CLASSES, SHAPE, fit, sgd
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vitfw.callbacks.after_validation import after_validation
from vitfw.callbacks.step_timing import PHASES, StepTiming, event, seconds_between
from vitfw.training.sam import SAM

DATA, FORWARD, BACKWARD, OPTIMIZER, VALIDATION, SAVING = 2.0, 3.0, 5.0, 7.0, 100.0, 1000.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def turn(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class SlowBatches(Dataset):
    """Each sample is a batch."""

    def __init__(self, clock: Clock, count: int, seconds: float):
        self.clock, self.count, self.seconds = clock, count, seconds

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.clock.turn(self.seconds)
        return torch.randn(2, *SHAPE), torch.tensor([0, 1])


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock):
        ctx.clock = clock
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.turn(BACKWARD)
        return gradient, None


class SlowNet(nn.Module):
    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self.head = nn.Linear(48, CLASSES)

    def forward(self, images):
        if self.training:
            self.clock.turn(FORWARD)
        return SlowBackward.apply(self.head(images.flatten(1)), self.clock)


def slow_sgd(clock: Clock, net: nn.Module) -> torch.optim.Optimizer:
    optimizer = sgd(net)
    optimizer.register_step_post_hook(lambda *_: clock.turn(OPTIMIZER))
    return optimizer


def timed(clock: Clock, *callbacks: L.Callback, count: int = 6, **options):
    def loader(seconds: float) -> DataLoader:
        return DataLoader(SlowBatches(clock, count, seconds), batch_size=None)

    options = {"optimizer": partial(slow_sgd, clock), "log_every_n_steps": 2} | options
    data, val = loader(DATA), loader(VALIDATION)
    records, _ = fit(StepTiming(), *callbacks, net=SlowNet(clock), data=data, val=val, **options)
    return [records.curve(f"step_seconds/{phase}") for phase in PHASES]


def test_each_phase_has_its_own_time_and_validation_is_none(clock):
    data, forward, backward, optimizer = timed(clock, val_check_interval=0.5, max_epochs=2)
    steps = [2, 4, 6, 8, 10, 12]
    assert data == dict.fromkeys(steps, DATA)
    assert forward == dict.fromkeys(steps, FORWARD)
    assert backward == dict.fromkeys(steps, BACKWARD)
    assert optimizer == dict.fromkeys(steps, OPTIMIZER)


def test_what_is_drawn_after_a_validation_is_no_waiting_for_data(clock):
    class Draws(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            clock.turn(300.0)

    data, *_ = timed(clock, Draws(), val_check_interval=0.5)
    assert data == dict.fromkeys((2, 4, 6), DATA)


def test_a_second_fit_does_not_watch_validations_twice():
    trainer, timing = SimpleNamespace(callbacks=[]), StepTiming()
    for _ in range(2):
        after_validation(trainer, timing._set_mark)
    assert len(trainer.callbacks) == 1


def test_the_batches_of_an_accumulated_step_add_up(clock):
    phases = timed(clock, accumulate_grad_batches=2, log_every_n_steps=3)
    sums = (2 * DATA, 2 * FORWARD, 2 * BACKWARD, OPTIMIZER)
    # The third batch is half a step: what is due then is logged with the fourth.
    assert phases == [{2: seconds, 3: seconds} for seconds in sums]


def test_only_whole_steps_are_told(clock):
    phases = timed(clock, count=12, accumulate_grad_batches=2, log_every_n_steps=3)
    sums = (2 * DATA, 2 * FORWARD, 2 * BACKWARD, OPTIMIZER)
    assert phases == [dict.fromkeys((2, 3, 5, 6), seconds) for seconds in sums]


def test_both_passes_of_sam_add_up(clock):
    phases = timed(clock, optimizer=lambda net: SAM(slow_sgd(clock, net), net))
    sums = (DATA, 2 * FORWARD, 2 * BACKWARD, OPTIMIZER)
    assert phases == [dict.fromkeys((2, 4, 6), seconds) for seconds in sums]


def test_saving_between_two_steps_is_no_waiting_for_data(clock, tmp_path):
    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")
                clock.turn(SAVING)

    data, *_ = timed(clock, Saves())
    assert data == {2: DATA, 4: DATA / 2, 6: DATA}  # that of the batch after it is not counted


def test_the_first_step_after_a_start_is_left_out(clock):
    class Compiles(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            clock.turn(500.0 if batch_idx == 0 else 0.0)

    assert timed(clock, Compiles())[1] == dict.fromkeys((2, 4, 6), FORWARD)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_events_measure_what_the_gpu_did():
    a = torch.randn(4096, 4096, device="cuda")
    (a @ a).sum().item()
    began, begin = time.perf_counter(), event()
    for _ in range(20):
        a @ a
    seconds = seconds_between(begin, event())
    assert 0.5 < seconds / (time.perf_counter() - began) <= 1.05

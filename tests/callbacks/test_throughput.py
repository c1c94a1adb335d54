"""Images per second, against a clock that a test can turn."""

import time

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_fit import fit, small_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks.throughput import Throughput
from vitfw.training.classifier import Classifier
from vitfw.training.sam import SAM

BATCHES, BATCH = 10, 4


class Clock(L.Callback):
    """Every training batch takes 2 s, every validation batch 100 s."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def on_train_batch_start(self, *args):
        self.now += 2.0

    def on_validation_batch_start(self, *args):
        self.now += 100.0


class SavesFirstEpoch(L.Callback):
    """As if the first epoch's model were the best."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/first.ckpt")


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def make_classifier() -> Classifier:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    return Classifier(net, 2, optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.1))


def loader() -> DataLoader:
    count = BATCHES * BATCH
    data = TensorDataset(torch.randn(count, 3, 4, 4), torch.arange(count) % 2)
    return DataLoader(data, batch_size=BATCH)


def make_trainer(folder, *callbacks, **options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_images_are_counted_after_the_warm_up_and_validation_takes_no_time(tmp_path, clock):
    throughput = Throughput(warmup_steps=3)
    trainer = make_trainer(tmp_path, clock, throughput, max_epochs=2)
    trainer.fit(make_classifier(), loader(), loader())
    counted = 2 * BATCHES - 3
    assert throughput.images == counted * BATCH
    assert throughput.seconds == 2.0 * counted
    assert throughput.images_per_second == BATCH / 2.0
    assert trainer.callback_metrics["train/images_per_second"] == BATCH / 2.0


def test_fit_seconds_count_everything(tmp_path, clock):
    throughput = Throughput()
    make_trainer(tmp_path, clock, throughput, max_epochs=2).fit(
        make_classifier(), loader(), loader()
    )
    assert throughput.total_seconds() == 2 * BATCHES * (2.0 + 100.0)
    clock.now += 5000.0
    assert throughput.total_seconds() == 2 * BATCHES * (2.0 + 100.0)


def test_fewer_steps_than_the_warm_up_give_no_rate(tmp_path, clock):
    throughput = Throughput(warmup_steps=50)
    trainer = make_trainer(tmp_path, clock, throughput, max_epochs=1)
    trainer.fit(make_classifier(), loader())
    assert throughput.images_per_second == 0.0
    assert "train/images_per_second" not in trainer.callback_metrics


def test_a_resumed_run_goes_on_counting(tmp_path, clock):
    first = Throughput(warmup_steps=3)
    trainer = make_trainer(tmp_path, clock, first, max_epochs=1)
    trainer.fit(make_classifier(), loader())
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    clock.now += 10_000.0  # nobody trains

    second = Throughput(warmup_steps=3)
    trainer = make_trainer(tmp_path, clock, second, max_epochs=2)
    trainer.fit(make_classifier(), loader(), ckpt_path=tmp_path / "stopped.ckpt")
    assert second.images == 2 * (BATCHES - 3) * BATCH  # warmed up twice
    assert second.images_per_second == BATCH / 2.0
    assert second.total_seconds() == 2 * BATCHES * 2.0


def test_the_state_is_plain_numbers(clock):
    throughput = Throughput()
    assert throughput.state_dict() == {"images": 0, "seconds": 0.0, "fit_seconds": 0.0}
    throughput.load_state_dict({"images": 30, "seconds": 2.0, "fit_seconds": 9.0})
    assert throughput.images_per_second == 15.0
    assert throughput.total_seconds() == 9.0


def test_testing_an_earlier_checkpoint_does_not_turn_the_counts_back(tmp_path, clock):
    throughput = Throughput(warmup_steps=3)
    trainer = make_trainer(tmp_path, clock, throughput, SavesFirstEpoch(), max_epochs=3)
    classifier = make_classifier()
    trainer.fit(classifier, loader())
    before = throughput.images, throughput.total_seconds()
    trainer.test(classifier, loader(), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    assert (throughput.images, throughput.total_seconds()) == before


# ── what is logged with the training metrics ──────────────────────────────────────────────────

PEAK = 1e5
FORWARD = 2 * (48 * 8 + 8 * 3)  # of `small_net`: two FLOPs for each of its weights
RATE = BATCH / 2.0


@pytest.fixture
def peak(monkeypatch):
    monkeypatch.setattr("vitfw.callbacks.throughput.matmul_peak", lambda device, dtype: PEAK)


def speeds(clock, **options) -> list[dict[int, float]]:
    records, _ = fit(clock, Throughput(), log_every_n_steps=2, **options)
    tags = ("images_per_second", "model_flop_utilisation")
    return [records.curve(f"speed/{tag}") for tag in tags]


def test_speed_is_the_mean_since_the_last_logging_without_validation(clock, peak):
    rates, _ = speeds(clock, val=loader(), max_epochs=2, val_check_interval=0.25)
    assert rates == dict.fromkeys((2, 4, 6, 8), RATE)


@pytest.mark.parametrize("before", [True, False])
def test_what_others_do_after_a_validation_is_no_training(clock, peak, tmp_path, before):
    """Drawing, by callbacks before and after this one, and saving, which Lightning does last."""

    class Draws(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            clock.now += 300.0

    class Saves(ModelCheckpoint):
        def on_validation_end(self, trainer, pl_module):
            clock.now += 700.0

    draws, throughput = Draws(), Throughput(warmup_steps=0)
    order = (draws, throughput) if before else (throughput, draws)
    records, _ = fit(
        *(clock, Saves(tmp_path), *order),
        val=loader(),
        max_epochs=2,
        val_check_interval=0.25,
        log_every_n_steps=2,
        enable_checkpointing=True,
    )
    assert records.curve("speed/images_per_second") == dict.fromkeys((2, 4, 6, 8), RATE)
    assert throughput.images_per_second == RATE


def test_utilisation_is_three_forward_passes_an_image_over_the_peak(clock, peak):
    _, utilisation = speeds(clock)
    assert utilisation == pytest.approx(
        {2: 3 * FORWARD * RATE / PEAK, 4: 3 * FORWARD * RATE / PEAK}
    )


def test_sam_takes_twice_as_many_flops(clock, peak):
    _, utilisation = speeds(
        clock, optimizer=lambda net: SAM(torch.optim.SGD(net.parameters(), lr=0.1), net)
    )
    assert utilisation[4] == pytest.approx(6 * FORWARD * RATE / PEAK)


class LooksAtValues(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum().item() > -1e9 else -x)  # there are none on meta


@pytest.mark.parametrize("case", ["frozen layers", "not countable", "switched off"])
def test_without_a_utilisation_there_is_a_speed(clock, peak, case):
    net = small_net()
    if case == "frozen layers":
        net[1].requires_grad_(False)
    if case == "not countable":
        net = LooksAtValues(*net)
    records, _ = fit(clock, Throughput(utilisation=case != "switched off"), net=net)
    assert records.tags("speed/") == {"speed/images_per_second"}
    assert records.curve("speed/images_per_second")[4] == RATE

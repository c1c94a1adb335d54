"""Which weights are evaluated and saved by a schedule-free run, and how it is resumed.

The average is computed by hand beside the training: x ← (1 − c) x + c z, as in the paper.
"""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks.schedule_free import ScheduleFree
from vitfw.training.optimizers import adamw, schedule_free

LR, BETA, BETA2, EPS, DECAY = 0.05, 0.8, 0.9, 1e-8, 0.1


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()


class Fitted(L.LightningModule):
    def __init__(self, make=schedule_free) -> None:
        super().__init__()
        self.net = make_net()
        self.make = make
        self.validated: list[dict[str, Tensor]] = []
        self.trained: list[dict[str, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.trained.append({k: v.clone() for k, v in self.net.state_dict().items()})
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated.append({k: v.clone() for k, v in self.net.state_dict().items()})
        self.log("loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.net, lr=LR, weight_decay=DECAY, betas=[BETA, BETA2], eps=EPS)


class SaveInTheMiddle(L.Callback):
    def __init__(self, path: Path, at: int):
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


IMAGES = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BATCHES = DataLoader(TensorDataset(IMAGES.repeat(4, 1)), batch_size=4)  # four times the same


def fit(folder: Path, epochs: int = 2, make=schedule_free, start: Path | None = None, at: int = 6):
    module = Fitted(make)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=2,
        default_root_dir=folder,
        callbacks=[
            ModelCheckpoint(folder, "best", monitor="loss", save_on_train_epoch_end=False),
            SaveInTheMiddle(folder / "middle.ckpt", at),
            ScheduleFree(),
        ],
    )
    trainer.fit(module, BATCHES, BATCHES, ckpt_path=start)
    return module, trainer


def by_hand(steps: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """x after each number of steps, and the y at which each gradient is taken.

    Defazio et al. 2024, algorithm 1, with a constant lr: c = 1 / (t + 1).
    """
    net = make_net()
    names = [name for name, _ in net.named_parameters()]
    x = {name: p.detach().clone() for name, p in net.named_parameters()}
    z = {name: p.detach().clone() for name, p in net.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    averages, places = [dict(x)], []
    for step in range(steps):
        y = {name: (1 - BETA) * z[name] + BETA * x[name] for name in names}
        places.append(y)
        net.load_state_dict(y)
        slopes = torch.autograd.grad(net(IMAGES).square().mean(), list(net.parameters()))
        for name, slope in zip(names, slopes, strict=True):
            second[name] = BETA2 * second[name] + (1 - BETA2) * slope**2
            size = (second[name] / (1 - BETA2 ** (step + 1))).sqrt() + EPS
            decay = DECAY if y[name].ndim > 1 else 0.0
            z[name] = z[name] - LR * (slope / size + decay * y[name])
            x[name] = x[name] + (z[name] - x[name]) / (step + 1)
        averages.append(dict(x))
    return averages, places


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


def net_of(path: Path) -> dict[str, Tensor]:
    saved = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in saved.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *fit(folder)


def test_gradients_are_taken_at_y_and_validation_is_of_x(run):
    _, module, _ = run
    averages, places = by_hand(8)
    for found, expected in zip(module.trained, places, strict=True):
        assert_alike(found, expected)
    sanity, first, second = module.validated[0], module.validated[2], module.validated[-1]
    assert_alike(sanity, averages[0])
    assert_alike(first, averages[4])
    assert_alike(second, averages[8])
    assert not torch.allclose(places[4]["0.weight"], averages[4]["0.weight"])


def test_every_checkpoint_holds_x(run):
    folder, module, trainer = run
    averages, _ = by_hand(8)
    assert_alike(net_of(folder / "middle.ckpt"), averages[6])
    best = net_of(folder / "best.ckpt")
    assert any(torch.equal(best["0.weight"], seen["0.weight"]) for seen in module.validated)
    trainer.save_checkpoint(folder / "end.ckpt")
    assert_alike(net_of(folder / "end.ckpt"), averages[8])


def test_after_the_fit_the_weights_are_x(run):
    _, module, _ = run
    assert_alike(module.net.state_dict(), by_hand(8)[0][8])


def test_saving_does_not_change_the_training(run, tmp_path):
    """To the bit: when something is saved may depend on the clock."""
    _, module, _ = run
    undisturbed, _ = fit(tmp_path, at=-1)
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, undisturbed.net.state_dict()[name]), name


def test_a_run_resumed_at_an_epochs_end_goes_on_to_the_bit(run, tmp_path):
    _, whole, _ = run
    _, trainer = fit(tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(tmp_path, start=tmp_path / "half.ckpt")
    assert len(resumed.trained) == 4
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name


def test_a_run_resumed_in_the_middle_goes_on_to_rounding(run, tmp_path):
    folder, whole, _ = run
    resumed, _ = fit(tmp_path, start=folder / "middle.ckpt")
    assert len(resumed.trained) == 2
    for found, expected in zip(resumed.trained, whole.trained[6:], strict=True):
        assert_alike(found, expected)
    assert_alike(resumed.net.state_dict(), whole.net.state_dict())


def test_testing_a_checkpoint_after_the_fit_leaves_its_weights_alone(run):
    folder, module, trainer = run
    module.test_step = module.validation_step
    trainer.test(module, BATCHES, ckpt_path=str(folder / "middle.ckpt"), verbose=False)
    assert_alike(module.validated[-1], by_hand(8)[0][6])


def test_other_optimizers_are_left_alone(tmp_path):
    module, _ = fit(tmp_path, make=adamw)
    assert_alike(module.validated[-1], module.net.state_dict())
    trained = fit(tmp_path / "again", epochs=1, make=adamw)[0].net.state_dict()
    assert_alike(module.validated[2], trained)

"""SAM against closed forms in float64, against a loop written out, and inside Lightning."""

import copy
import math
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.optimizers import adamw, muon, sam, schedule_free, sgd
from vitfw.training.sam import SAM

CURVATURE = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)


class Bowl(nn.Module):
    """Loss ½ Σ a w², gradient a w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return 0.5 * (CURVATURE * self.w.square()).sum()


def closure_of(net: nn.Module, optimizer: torch.optim.Optimizer, *inputs: torch.Tensor):
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(*inputs).square().mean() if inputs else net()
        loss.backward()
        return loss

    return closure


def plain_sgd(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr)


def test_a_step_on_a_quadratic_is_the_closed_form():
    """w − lr · a (w + rho · a w / ‖a w‖)"""
    net = Bowl()
    before = net.w.detach().clone()
    optimizer = SAM(plain_sgd(net, 0.1), net, rho=0.3)
    loss = optimizer.step(closure_of(net, optimizer))
    gradient = CURVATURE * before
    highest = before + 0.3 * gradient / gradient.norm()
    torch.testing.assert_close(
        net.w.detach(), before - 0.1 * CURVATURE * highest, rtol=0, atol=1e-12
    )
    assert loss.item() == pytest.approx(0.5 * (CURVATURE * before**2).sum().item())


def test_an_adaptive_step_on_a_quadratic_is_the_closed_form():
    """w − lr · a (w + rho · w² g / ‖|w| g‖), g = a w"""
    net = Bowl()
    before = net.w.detach().clone()
    optimizer = SAM(plain_sgd(net, 0.1), net, rho=0.3, adaptive=True)
    optimizer.step(closure_of(net, optimizer))
    gradient = CURVATURE * before
    highest = before + 0.3 * before**2 * gradient / (before.abs() * gradient).norm()
    torch.testing.assert_close(
        net.w.detach(), before - 0.1 * CURVATURE * highest, rtol=0, atol=1e-12
    )


def test_the_norm_is_that_of_all_groups_together():
    net = nn.ParameterList([nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))])
    groups = [{"params": [net[0]], "lr": 0.0}, {"params": [net[1]], "lr": 0.0}]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.0), net, rho=10.0)
    seen = []

    def closure() -> None:
        seen.append([parameter.item() for parameter in net])
        net[0].grad, net[1].grad = torch.tensor([3.0]), torch.tensor([4.0])

    optimizer.step(closure)
    assert seen[0] == [3.0, 4.0]
    assert seen[1] == pytest.approx([3.0 + 6.0, 4.0 + 8.0])  # rho · (3, 4) / 5
    assert [parameter.item() for parameter in net] == [3.0, 4.0]  # to the bit


def test_it_equals_the_loop_of_the_paper_with_momentum_and_decay():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    theirs = copy.deepcopy(ours)
    images = torch.randn(5, 6, 4, dtype=torch.float64)
    optimizer = sam(ours, partial(sgd, momentum=0.8), lr=0.1, weight_decay=0.01, rho=0.2)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    biases = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": biases}]
    by_hand = torch.optim.SGD(groups, lr=0.1, momentum=0.8, nesterov=True)
    for batch in images:
        optimizer.step(closure_of(ours, optimizer, batch))

        weights = list(theirs.parameters())
        slopes = torch.autograd.grad(theirs(batch).square().mean(), weights)
        length = math.sqrt(sum(slope.square().sum().item() for slope in slopes))
        there = copy.deepcopy(theirs)
        with torch.no_grad():
            for weight, slope in zip(there.parameters(), slopes, strict=True):
                weight += 0.2 * slope / length
        slopes = torch.autograd.grad(there(batch).square().mean(), list(there.parameters()))
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = slope
        by_hand.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


class Noisy(nn.Module):
    """Dropout and batch norm; notes what its dropout let through."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, 1)
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.ones_like(self.first(x))) * self.norm(self.first(x))
        self.kept.append(x.detach() != 0)
        return self.last(x)


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_GPU)])
def test_both_passes_drop_the_same_and_statistics_are_those_of_the_first(device):
    net = Noisy().to(device)
    twin, images = copy.deepcopy(net), torch.randn(12, 6, device=device)
    optimizer = SAM(plain_sgd(net, 0.1), net)
    torch.manual_seed(5)
    optimizer.step(closure_of(net, optimizer, images))
    after = torch.rand(3, device=device)
    assert len(net.kept) == 2 and torch.equal(*net.kept)
    torch.manual_seed(5)
    twin(images)  # one pass in training mode
    assert torch.equal(torch.rand(3, device=device), after)
    for name, buffer in twin.norm.named_buffers():
        assert torch.equal(buffer, net.norm.get_buffer(name)), name
    assert net.norm.num_batches_tracked == 1 and net.norm.track_running_stats


def test_second_pass_can_be_told_from_the_first():
    net = Bowl()
    optimizer = SAM(plain_sgd(net, 0.1), net)
    told = []
    evaluate = closure_of(net, optimizer)

    def closure() -> torch.Tensor:
        told.append(optimizer.second_pass)
        return evaluate()

    optimizer.step(closure)
    assert told == [False, True] and not optimizer.second_pass


def test_a_second_pass_that_fails_leaves_everything_as_it_was():
    net = Noisy()
    optimizer = SAM(plain_sgd(net, 0.1), net)
    evaluate = closure_of(net, optimizer, torch.randn(4, 6))
    before = copy.deepcopy(dict(net.named_parameters()))

    def closure() -> torch.Tensor:
        if optimizer.second_pass:
            raise MemoryError
        return evaluate()

    with pytest.raises(MemoryError):
        optimizer.step(closure)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert net.norm.track_running_stats and not optimizer.second_pass


def test_a_schedule_sets_the_lr_of_the_base():
    net = Bowl()
    optimizer = sam(net, sgd, lr=0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step(closure_of(net, optimizer))
    schedule.step()
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.1]


@pytest.mark.parametrize("base", [sgd, adamw, muon])
def test_state_goes_on_exactly_in_another_process(base):
    """A step, a round trip of the states, a step: the same as two steps."""
    torch.manual_seed(0)
    net = VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2)
    images = torch.randn(2, 4, 3, 8, 8)
    optimizer = sam(net, base, lr=0.01)
    optimizer.step(closure_of(net, optimizer, images[0]))
    other = copy.deepcopy(net)
    resumed = sam(other, base, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step(closure_of(net, optimizer, images[1]))
    resumed.step(closure_of(other, resumed, images[1]))
    assert resumed.param_groups is resumed.base.param_groups
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Fitted(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Noisy()
        self.passes: list[bool] = []

    def on_train_batch_start(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        torch.manual_seed(self.trainer.global_step)  # as the callback StepSeed does

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.passes.append(self.trainer.optimizers[0].second_pass)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = sam(self.net, sgd, lr=0.05, rho=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_a_fit_that_is_stopped_and_resumed_equals_one_that_is_not(tmp_path):
    images = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)

    def fit(epochs: int, checkpoint: str | None = None) -> tuple[L.Trainer, Fitted]:
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            default_root_dir=tmp_path,
        )
        module = Fitted()
        trainer.fit(module, batches, ckpt_path=checkpoint)
        return trainer, module

    _, whole = fit(2)
    assert whole.passes == [False, True] * 8
    trainer, _ = fit(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fit(2, str(tmp_path / "half.ckpt"))
    for (name, mine), theirs in zip(
        whole.net.state_dict().items(), resumed.net.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda net: sam(net, rho=0.0), "rho=0.0.*above 0"),
        (lambda net: sam(net, partial(sgd, lr=0.3)), r"base\.lr=0\.3.*called optimizer\.lr"),
        (lambda net: sam(net, partial(sgd, overrides={"w": {}})), r"base\.overrides"),
        (lambda net: sam(net, schedule_free), "cannot be sam or schedule_free"),
        (lambda net: sam(net, sam), "cannot be sam or schedule_free"),
        (lambda net: sam(net).step(), "16-mixed"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(Bowl())

"""Averaged weights against closed forms, timm's and PyTorch's."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vitfw.training.weight_average import WeightAverage, ema, swa

STEPS, EPOCH = 40, 10


def walk(net: nn.Module, average: WeightAverage, steps: int = STEPS) -> list[torch.Tensor]:
    """Weights after each of `steps` random steps, each of which the average is told of."""
    torch.manual_seed(1)
    weights = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(net, step)
        weights.append(net.weight.detach().clone())
    return weights


def make() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def test_ema_equals_its_closed_form():
    """dⁿ⁻¹ w₁ + (1 − d) Σ dⁿ⁻ᵗ wₜ"""
    net, decay = make(), 0.9
    average = ema(net, STEPS, EPOCH, decay=decay, warmup=False)
    weights = walk(net, average)
    expected = decay ** (STEPS - 1) * weights[0]
    for t, weight in enumerate(weights[1:], start=2):
        expected = expected + (1 - decay) * decay ** (STEPS - t) * weight
    torch.testing.assert_close(average.net.weight, expected)


def test_ema_with_warm_up_is_the_product_of_its_decays():
    net, limit = make(), 0.7
    average = ema(net, STEPS, EPOCH, decay=limit)
    weights = walk(net, average)
    shares, left = [], 1.0
    for t in range(STEPS, 1, -1):
        decay = min(limit, (1 + t) / (10 + t))
        shares.append(left * (1 - decay))
        left *= decay
    shares = [left, *reversed(shares)]
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    torch.testing.assert_close(average.net.weight, expected)


def test_ema_without_warm_up_equals_timms():
    net = make()
    theirs = ModelEmaV3(net, decay=0.8)
    ours = ema(net, STEPS, EPOCH, decay=0.8, warmup=False)
    theirs.module.load_state_dict(net.state_dict())
    torch.manual_seed(1)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        if step == 1:
            theirs.module.load_state_dict(net.state_dict())  # our first step copies
        else:
            theirs.update(net, step=step)
        ours.update(net, step)
    torch.testing.assert_close(ours.net.state_dict(), theirs.module.state_dict())


def test_swa_is_pytorchs_mean_of_the_last_epochs():
    net = make()
    ours = swa(net, STEPS, EPOCH, start="50%", every="1ep")
    theirs = AveragedModel(net)
    torch.manual_seed(1)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            net.weight.add_(torch.randn_like(net.weight))
        ours.update(net, step)
        if step in (20, 30, 40):
            theirs.update_parameters(net)
    torch.testing.assert_close(ours.net.weight, theirs.module.weight)


@pytest.mark.parametrize("epochs, start", [(4, "75%"), (7, "75%"), (7, "50%"), (5, 1)])
def test_swa_ends_with_the_last_weights_of_epochs_from_its_start_on(epochs, start):
    net, total = make(), epochs * EPOCH
    first = start if isinstance(start, int) else total * int(start[:-1]) / 100
    average = swa(net, total, EPOCH, start=start, every="1ep")
    weights = walk(net, average, steps=total)
    ends = [end for end in range(EPOCH, total + 1, EPOCH) if end >= first]
    torch.testing.assert_close(
        average.net.weight, torch.stack([weights[end - 1] for end in ends]).mean(dim=0)
    )


def test_before_its_start_swa_is_the_last_epochs_weights():
    net = make()
    average = swa(net, STEPS, EPOCH, start="75%", every="1ep")
    weights = walk(net, average, steps=25)
    assert torch.equal(average.net.weight, weights[19])


def test_running_statistics_are_averaged_and_counters_copied():
    net = nn.BatchNorm1d(2)
    average = ema(net, STEPS, EPOCH, decay=0.5, warmup=False)
    net.train()
    means = []
    for step in (1, 2):
        net(torch.randn(8, 2) + step)
        means.append(net.running_mean.clone())
        average.update(net, step)
    torch.testing.assert_close(average.net.running_mean, (means[0] + means[1]) / 2)
    assert average.net.num_batches_tracked == 2


def test_the_average_never_trains():
    average = ema(nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), STEPS, EPOCH)
    average.train()
    assert not average.net.training
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=r"average.decay=.* below 1, such as 0.999"):
        ema(make(), STEPS, EPOCH, decay=decay)


def test_averaging_more_often_than_every_step_is_refused():
    with pytest.raises(ValueError, match="average.every=0 is less than a step; try 1ep"):
        swa(make(), STEPS, EPOCH, every=0)

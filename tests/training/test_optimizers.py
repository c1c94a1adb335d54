"""One step of every optimizer, against torch's or timm's own and against closed forms."""

import copy
import math

import pytest
import timm.optim
import torch
from torch import nn

from vitfw.models.vit import VisionTransformer
from vitfw.training.optimizers import adamw, muon, sgd, timm_optimizer

STEPS = 3


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        net(images).square().sum().backward()
        optimizer.step()


def split_by_hand(net: nn.Module) -> list[dict]:
    named = dict(net.named_parameters())
    plain = {name for name, p in named.items() if p.ndim == 1} | {"cls_token", "pos_embed"}
    return [
        {"params": [p for name, p in named.items() if name not in plain], "weight_decay": 0.1},
        {"params": [named[name] for name in sorted(plain)], "weight_decay": 0.0},
    ]


def assert_equal_weights(ours: nn.Module, theirs: nn.Module, **tolerance) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, msg=name, **tolerance or {"rtol": 0, "atol": 0})


def test_adamw_equals_torchs_with_the_groups_written_out():
    ours = make_net()
    theirs = copy.deepcopy(ours)
    train(ours, adamw(ours, lr=1e-2, weight_decay=0.1, betas=[0.8, 0.9], eps=1e-6))
    groups = split_by_hand(theirs)
    train(theirs, torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9), eps=1e-6))
    assert_equal_weights(ours, theirs)


def test_first_adamw_step_is_the_closed_form():
    """Bias correction makes the first step lr · g / (|g| + eps), after the decay."""
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer)
    optimizer = adamw(layer, lr=0.1, weight_decay=0.5, eps=1e-8)
    (layer(torch.randn(4, 3)) * torch.randn(4, 2)).sum().backward()
    optimizer.step()
    decayed = before.weight * (1 - 0.1 * 0.5)
    expected = decayed - 0.1 * layer.weight.grad / (layer.weight.grad.abs() + 1e-8)
    torch.testing.assert_close(layer.weight, expected)
    torch.testing.assert_close(layer.bias, before.bias - 0.1 * layer.bias.grad.sign())


def test_sgd_equals_torchs_with_the_groups_written_out():
    ours = make_net()
    theirs = copy.deepcopy(ours)
    train(ours, sgd(ours, lr=1e-2, weight_decay=0.1, momentum=0.7))
    groups = split_by_hand(theirs)
    train(theirs, torch.optim.SGD(groups, lr=1e-2, momentum=0.7, nesterov=True))
    assert_equal_weights(ours, theirs)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)], ids=str)
def test_a_muon_step_on_a_matrix_is_almost_orthogonal(shape):
    """Whatever the gradient's spectrum, that of the update is flat: 0.2 · sqrt(longer side)."""
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(shape[1], shape[0], bias=False)])})
    weight = net["blocks"][0].weight
    before = weight.detach().clone()
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spectrum = torch.logspace(0, -1.5, min(shape))
    weight.grad = u @ spectrum.diag() @ v
    muon(net, lr=0.1, weight_decay=0.0).step()

    values = torch.linalg.svdvals((weight.detach() - before).double()) / 0.1
    expected = 0.2 * math.sqrt(max(shape))
    assert spectrum.max() / spectrum.min() > 30
    assert values.max() / values.min() < 1.8
    assert expected * 0.6 < values.min() and values.max() < expected * 1.3


def test_a_muon_step_has_the_directions_of_the_gradient():
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(12, 12, bias=False)])})
    weight = net["blocks"][0].weight
    before = weight.detach().clone()
    gradient = torch.randn(12, 12)
    weight.grad = gradient.clone()
    muon(net, lr=1.0, weight_decay=0.0).step()
    u, _, v = torch.linalg.svd(gradient.double())
    step = u.T @ (before - weight.detach()).double() @ v.T  # in the gradient's own axes
    assert step.diagonal().min() > 0
    assert (step - step.diagonal().diag()).abs().max() < 0.1 * step.diagonal().max()


def test_muon_decays_by_lr_times_weight_decay():
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 8, bias=False)])})
    weight = net["blocks"][0].weight
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    muon(net, lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), before * 0.95)


@pytest.mark.parametrize(
    "nesterov, twin",
    [(False, torch.optim.AdamW), (True, timm.optim.NAdamW)],
    ids=["AdamW", "NAdamW with nesterov"],
)
def test_what_muon_leaves_is_stepped_by_adamw(nesterov, twin):
    """A net without hidden matrices is trained as by the other optimizer alone."""
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten())
    theirs = copy.deepcopy(ours)
    train(ours, muon(ours, lr=1e-2, weight_decay=0.1, betas=[0.8, 0.9], nesterov=nesterov))
    kernel, *others = theirs.parameters()
    groups = [{"params": [kernel], "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    train(theirs, twin(groups, lr=1e-2, betas=(0.8, 0.9), eps=1e-7))
    assert_equal_weights(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lamb", "lion", "adafactor", "nadamw"])
def test_timms_optimizers_by_name_equal_timms_on_the_same_groups(name):
    ours = make_net()
    theirs = copy.deepcopy(ours)
    train(ours, timm_optimizer(ours, name, lr=1e-2, weight_decay=0.1))
    groups = split_by_hand(theirs)
    train(theirs, timm.optim.create_optimizer_v2(groups, opt=name, lr=1e-2, weight_decay=0.1))
    assert_equal_weights(ours, theirs, rtol=1e-5, atol=1e-6)


def test_options_reach_timms_optimizer():
    optimizer = timm_optimizer(make_net(), "lamb", lr=1e-3, eps=1e-5, betas=[0.7, 0.8])
    assert isinstance(optimizer, timm.optim.Lamb)
    assert optimizer.defaults["eps"] == 1e-5
    assert tuple(optimizer.defaults["betas"]) == (0.7, 0.8)


def test_an_optimizer_timm_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="lambb"):
        timm_optimizer(make_net(), "lambb", lr=1e-3)


@pytest.mark.parametrize("make", [adamw, muon])
def test_twenty_steps_halve_the_loss(make):
    net = make_net()
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    optimizer = make(net, lr=1e-2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

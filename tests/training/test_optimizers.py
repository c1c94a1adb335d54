"""One step of every optimizer, against torch's or timm's own and against closed forms."""

import copy
import io
import math
import sys
from functools import partial

import pytest
import timm.optim
import torch
from schedulefree import AdamWScheduleFree
from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.optimizers import (
    adafactor,
    adamw,
    lamb,
    lion,
    muon,
    sam,
    schedule_free,
    sgd,
    timm_optimizer,
)

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


def test_sgd_without_momentum_says_what_to_type_for_nesterovs():
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov=false"):
        sgd(make_net(), momentum=0.0)
    for none in (0.0, None):
        sgd(make_net(), momentum=none, nesterov=False)


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


@pytest.mark.parametrize(
    "name, message",
    [
        ("lambb", "lambb is none of timm's; did you mean lamb"),
        ("NAdamWW", "did you mean nadamw"),
        ("adahessian", "second derivatives"),
    ],
)
def test_an_optimizer_that_timm_cannot_make_is_refused_by_name(name, message):
    with pytest.raises(ConfigError, match=message):
        timm_optimizer(make_net(), name, lr=1e-3)


@pytest.mark.parametrize("name", ["muon", "adamuon"])
def test_timms_muons_leave_embedding_and_head_to_adamw(name):
    groups = timm_optimizer(make_net(), name, lr=1e-3).param_groups
    assert [group.get("use_fallback", False) for group in groups] == [False, True, True]


LAMB = {"betas": (0.8, 0.9), "eps": 1e-5, "max_grad_norm": 0.5}
LION = {"betas": (0.7, 0.8)}
FACTORS = {"momentum": 0.8, "beta2_cap": 0.9}


@pytest.mark.parametrize(
    "make, options, twin",
    [
        (lamb, LAMB, lambda groups: timm.optim.Lamb(groups, lr=1e-2, **LAMB)),
        (lamb, {}, lambda groups: timm.optim.Lamb(groups, lr=1e-2)),
        (lion, LION, lambda groups: timm.optim.Lion(groups, lr=1e-2, **LION)),
        (
            adafactor,
            FACTORS,
            lambda groups: timm.optim.AdafactorBigVision(
                groups, lr=1e-2, momentum_dtype="float32", **FACTORS
            ),
        ),
        (
            adafactor,
            {"momentum": None},
            lambda groups: timm.optim.AdafactorBigVision(groups, lr=1e-2, momentum=None),
        ),
    ],
    ids=["lamb", "lamb by default", "lion", "adafactor", "adafactor without momentum"],
)
def test_timms_optimizers_equal_timms_with_the_groups_written_out(make, options, twin):
    ours = make_net()
    theirs = copy.deepcopy(ours)
    train(ours, make(ours, lr=1e-2, weight_decay=0.1, **options))
    train(theirs, twin(split_by_hand(theirs)))
    assert_equal_weights(ours, theirs, rtol=1e-5, atol=1e-6)


def test_first_lion_step_is_the_sign_of_the_gradient():
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer)
    optimizer = lion(layer, lr=0.1, weight_decay=0.5)
    (layer(torch.randn(4, 3)) * torch.randn(4, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight, before.weight * 0.95 - 0.1 * layer.weight.grad.sign())
    torch.testing.assert_close(layer.bias, before.bias - 0.1 * layer.bias.grad.sign())


def test_adafactor_keeps_no_second_moments_of_the_size_of_a_matrix():
    net = nn.Linear(64, 48)
    optimizer = adafactor(net, momentum=None)
    net(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    assert sum(value.numel() for value in optimizer.state[net.weight].values()) == 64 + 48 + 1


def test_schedule_free_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitfw\[schedulefree\]'"):
        schedule_free(make_net())


def test_schedule_free_refuses_betas_that_cannot_be_undone():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        schedule_free(make_net(), betas=[0.0, 0.99])


@pytest.mark.parametrize("make", [adamw, muon, lamb, lion, schedule_free], ids=lambda m: m.__name__)
@pytest.mark.parametrize("betas", [[0.9], [0.9, 0.99, 0.999], 0.9, ["a", "b"], "ab", []], ids=str)
def test_betas_that_are_no_pair_are_refused(make, betas):
    with pytest.raises(ConfigError, match=r"optimizer\.betas=.* must be 2 numbers"):
        make(make_net(), betas=betas)


def test_timms_optimizers_take_as_many_betas_as_timm_says():
    assert timm_optimizer(make_net(), "adan", lr=1e-3, betas=[0.9, 0.92, 0.99])
    with pytest.raises(ConfigError, match=r"betas=\[0\.9, 0\.99\] must be 3 numbers"):
        timm_optimizer(make_net(), "adan", lr=1e-3, betas=[0.9, 0.99])
    with pytest.raises(ConfigError, match=r"betas=\[0\.9\] must be 2 numbers"):
        timm_optimizer(make_net(), "lookahead_adamw", lr=1e-3, betas=[0.9])


ALL = {
    "adamw": adamw,
    "sgd": sgd,
    "muon": muon,
    "lamb": lamb,
    "lion": lion,
    "adafactor": adafactor,
    "schedule_free": schedule_free,
    "timm": partial(timm_optimizer, name="adopt"),
    "sam": sam,
    "sam of muon": partial(sam, base=muon),
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_every_optimizer_takes_layer_decay_and_overrides(make):
    net = make_net()
    overrides = {"head.*": {"lr_scale": 3.0, "weight_decay": 0.25}}
    optimizer = make(net, lr=0.1, weight_decay=0.05, layer_decay=0.5, overrides=overrides)
    found = {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(net.parameters()))
    assert found[net.head.bias] == pytest.approx((0.3, 0.25))
    assert found[net.blocks[1].mlp.fc1.weight] == pytest.approx((0.05, 0.05))
    assert found[net.cls_token] == pytest.approx((0.0125, 0.0))
    assert all(isinstance(group["name"], str) for group in optimizer.param_groups)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_every_optimizers_state_goes_through_a_file_and_on(make):
    """Loaded as checkpoints are: plain data only. The next steps are the same."""
    ours = make_net()
    first = make(ours, lr=1e-2, weight_decay=0.1)
    step_with_closure(ours, first, seed=1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    theirs = copy.deepcopy(ours)
    second = make(theirs, lr=1e-2, weight_decay=0.1)
    second.load_state_dict(torch.load(file, weights_only=True))
    for seed in (2, 3):
        step_with_closure(ours, first, seed)
        step_with_closure(theirs, second, seed)
    assert_equal_weights(ours, theirs)


def step_with_closure(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.train()

    def closure() -> float:
        optimizer.zero_grad()
        loss = net(images).square().sum()
        loss.backward()
        return loss.item()

    optimizer.step(closure)


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

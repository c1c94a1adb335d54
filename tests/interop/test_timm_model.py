"""Gradient checkpointing of timm's architectures, against the same net without it."""

import pytest
import timm
import torch
from torch import Tensor, nn

from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.interop.timm_model import create

VIT = ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "drop_path_rate": 0.5})
CNN = ("resnet10t", {})


def gradients(net: nn.Module) -> tuple[dict[str, Tensor], int]:
    """What a training step finds, and how many bytes it kept for the backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = net.train()(images).square().sum()
    loss.backward()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found, sum(kept.values())


@pytest.mark.parametrize("name, options", [VIT, CNN], ids=[VIT[0], CNN[0]])
def test_gradients_are_those_without_and_less_is_kept_for_them(name, options):
    plain = create(name, num_classes=3, **options)
    frugal = create(name, num_classes=3, grad_checkpointing=True, **options)
    frugal.load_state_dict(plain.state_dict())
    expected, more = gradients(plain)
    found, less = gradients(frugal)
    assert found.keys() == expected.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert less < 0.9 * more


def test_it_is_asked_for_by_one_word():
    words = ["model=timm", "model.name=resnet10t", "model.grad_checkpointing=true"]
    assert build(to_plain(compose("train", words))["model"]).grad_checkpointing


def test_an_architecture_that_cannot_is_refused_by_name(monkeypatch):
    with pytest.raises(ConfigError, match="timm's vgg11 cannot checkpoint gradients; leave model"):
        create("vgg11", num_classes=3, grad_checkpointing=True)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="timm's resnet18 cannot checkpoint gradients"):
        create("resnet18", grad_checkpointing=True)

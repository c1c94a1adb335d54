"""Somebody's module and ours, held against each other."""

import torch
from torch import Tensor, nn


def same_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Random ones, in float64, under the same names."""
    theirs, ours = theirs.double().eval(), ours.double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)


def assert_same(theirs: nn.Module, ours: nn.Module, x: Tensor) -> None:
    """Outputs and gradients, in float64, with the weights of `theirs` under the same names."""
    same_weights(theirs, ours)
    expected, out = theirs(x), ours(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (out * direction).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-9, msg=name)

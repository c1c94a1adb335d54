"""What the string options of a model mean, and the checks that name the option."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

Layer = Callable[..., nn.Module]  # a module class, or a partial of one


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the GELU of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACT_LAYERS: dict[str, Layer] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
NORM_LAYERS: dict[str, Layer] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


def check_choice(option: str, name: str, choices: Iterable[str]) -> None:
    if name not in choices:
        raise ValueError(f"{option} {name!r} is not one of: {', '.join(choices)}")


def check_sizes(least: int, **sizes: int) -> None:
    for option, size in sizes.items():
        if not isinstance(size, int) or size < least:
            raise ValueError(f"{option} {size} must be a whole number of at least {least}")


def check_rates(**rates: float) -> None:
    for option, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{option} {rate} must lie in [0, 1)")


def check_together(**conditions: tuple[bool, str]) -> None:
    """`option=(is it set so that it does not fit, why and what to type)`, the first that fails."""
    for option, (unfit, message) in conditions.items():
        if unfit:
            raise ValueError(f"{option} {message}")

"""Low-rank adapters beside frozen linear layers, by peft, and folding them into the weights.

r rank, I inputs, O outputs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vitfw.errors import ConfigError
from vitfw.models.attention import Attention
from vitfw.training.freezing import head_of

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
MOST_LISTED = 12


@dataclass(frozen=True)
class Lora:
    """W + alpha / rank · B A in the place of W: A [r, I] starts at random, B [O, r] at zero.

    `rank` 0 is none at all, `dropout` is on the adapter's input. `targets` are patterns of the
    names of linear layers, or of how they end: `blocks.*`, `attn.qkv`.

    Raises:
        ConfigError: a number that makes no sense.

    Source: Hu et al. 2022, "LoRA: low-rank adaptation of large language models", §4.1.
    """

    rank: int = 0
    alpha: float = 16
    dropout: float = 0.0
    targets: Sequence[str] = ("blocks.*",)

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 0:
            raise ConfigError(f"lora.rank={self.rank} must be a whole number: 4, or 0 for none")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha={self.alpha} must be more than 0; 16 is usual")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout={self.dropout} must be from 0 to below 1")


def add_adapters(net: nn.Module, lora: Lora) -> None:
    """Put adapters, which are trained, to all target layers; nothing else changes.

    The weights of a layer are then called `….base_layer.weight`, its adapter
    `….lora_A.default.weight` and `….lora_B.default.weight`.

    Raises:
        ConfigError: peft is not installed; a target is no linear layer of the net.
    """
    peft = import_peft(lora.rank)
    names = target_layers(net, lora.targets)
    trained = {parameter: parameter.requires_grad for parameter in net.parameters()}
    options = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyrefly: ignore[bad-argument-type]  any number will do
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    peft.inject_adapter_in_model(options, net)
    for parameter, was_trained in trained.items():  # peft has frozen them all
        parameter.requires_grad_(was_trained)


def import_peft(rank: int) -> Any:
    """The package. Raises ConfigError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"lora.rank={rank} needs peft: pip install 'vitfw[peft]'") from error
    return peft


def target_layers(net: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that match one of `targets`, but for the classifier.

    Raises:
        ConfigError: a target matches none; the layer's module uses its weight itself.
    """
    head = head_of(net)
    linear = [
        name
        for name, module in net.named_modules()
        if type(module) is nn.Linear and f"{name}.weight" not in head
    ]
    found: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        here = {name for name in linear if matches(name, str(target))}
        if not here:
            kinds = list(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in linear))
            there = f"there are {', '.join(kinds[:MOST_LISTED])}" if kinds else "the net has none"
            raise ConfigError(f"lora.targets: no linear layer is called {target}; {there}")
        found |= here
    if not found:
        raise ConfigError("lora.targets is empty; lora.targets=[blocks.*] are all of the blocks")
    for name in found:
        refuse_bypass(net, name)
    return [name for name in linear if name in found]


def matches(name: str, target: str) -> bool:
    """Whether a layer's name, or how it ends, is like `target`."""
    return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")


def refuse_bypass(net: nn.Module, name: str) -> None:
    """Raises ConfigError for timm's attention that multiplies by `qkv.weight` without the layer.

    An adapter beside that layer would never be asked: BEiT, EVA and Swin v2, whose keys have no
    bias, so that the biases of queries and values stand apart.
    """
    parent, _, leaf = name.rpartition(".")
    owner = net.get_submodule(parent)
    apart = leaf == "qkv" and getattr(owner, "q_bias", None) is not None
    if apart and not isinstance(owner, Attention):
        raise ConfigError(
            f"lora.targets: {type(owner).__name__} of timm's uses the weight of {name} past any "
            "adapter; name others, such as lora.targets=[attn.proj,mlp.*]"
        )


def has_adapters(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(DOWN) for name in state)


def fold_adapters(state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The state dict of the net without adapters that computes the same.

    Parts of an adapter that is not whole keep their names.

    Raises:
        ConfigError: an adapter's shape is not its layer's.
    """
    layers = {name.removesuffix(DOWN) for name in state if name.endswith(DOWN)}
    whole = {layer for layer in layers if {layer + UP, f"{layer}{BASE}weight"} <= set(state)}
    folded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(BASE)
        if layer in whole and kind == "weight":
            tensor = folded_weight(layer, tensor, state[layer + DOWN], state[layer + UP], alpha)
        if layer in whole:
            folded[f"{layer}.{kind}"] = tensor
        elif name.removesuffix(DOWN).removesuffix(UP) not in whole:
            folded[name] = tensor
    return folded


def folded_weight(layer: str, weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """W + alpha / r · B A, of [O, I], [r, I] and [O, r], rounded once."""
    shapes = [list(tensor.shape) for tensor in (up, down, weight)]
    if any(len(shape) != 2 for shape in shapes) or shapes != [
        [len(weight), len(down)],
        [len(down), weight.shape[1]],
        [len(weight), weight.shape[1]],
    ]:
        raise ConfigError(
            f"the adapter of {layer} does not fit it: {shapes[0]} · {shapes[1]} beside {shapes[2]}"
        )
    scale = alpha / len(down)
    return (weight.double() + scale * up.double() @ down.double()).to(weight.dtype)

"""What of a net with somebody's weights is trained: fine-tuning in all its forms."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vitfw.errors import ConfigError
from vitfw.training.freezing import freeze as freeze_parameters
from vitfw.training.freezing import head_of
from vitfw.training.freezing import train_only as train_parameters
from vitfw.training.lora import Lora, add_adapters


def check_lora(cfg: Mapping[str, Any]) -> None:
    """Raises ConfigError for options of `lora` that make no sense, or that nothing is adapted by.

    Low-rank adapters stand beside frozen weights, which have to come from somewhere.
    """
    rank = Lora(**cfg["lora"]).rank
    if rank and not cfg["init_from"] and not cfg["model"].get("pretrained"):
        raise ConfigError(
            f"lora.rank={rank} freezes the weights of the net, and they would be random; give "
            "init_from=…, or lora.rank=0 to train them all"
        )


def adapt(
    net: nn.Module,
    freeze: Sequence[str] = (),
    train_only: Sequence[str] = (),
    lora: Mapping[str, Any] | None = None,
) -> None:
    """Freeze parameters and add adapters, in place; the names in patterns are those before it.

    Trained is what `train_only` names, everything where it is empty, without what `freeze` names.
    With `lora` (options of `Lora`) of a rank above 0, trained are the adapters and what
    `train_only` names, the head where it is empty; the weights must have been loaded before.

    Raises:
        ConfigError: a pattern or target without a match, or nothing is left to train.
    """
    adapters = Lora(**(lora or {}))
    if train_only or adapters.rank:
        train_parameters(net, train_only or sorted(head_of(net)))
    freeze_parameters(net, freeze)
    if adapters.rank:
        add_adapters(net, adapters)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        asked = {"freeze": freeze, "train_only": train_only}
        said = " and ".join(f"{key}={list(names)}" for key, names in asked.items() if names)
        raise ConfigError(f"{said or 'the net'} leaves nothing to train; take a pattern out")

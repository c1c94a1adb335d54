"""What of a net with somebody's weights is trained: fine-tuning in all its forms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from vitfw.errors import ConfigError
from vitfw.training.freezing import freeze as freeze_parameters
from vitfw.training.freezing import head_of, matching
from vitfw.training.freezing import train_only as train_parameters
from vitfw.training.lora import Lora, add_adapters, import_peft, target_layers
from vitfw.training.param_groups import layer_scales


def check_lora(cfg: Mapping[str, Any]) -> None:
    """Raises ConfigError for options of `lora` that make no sense, or that nothing is adapted by.

    Low-rank adapters stand beside frozen weights, which have to come from somewhere.
    """
    rank = Lora(**cfg["lora"]).rank
    if rank and begins_random(cfg):
        raise ConfigError(
            f"lora.rank={rank} freezes the weights of the net, and they would be random; give "
            "init_from=…, or lora.rank=0 to train them all"
        )


def check_names(cfg: Mapping[str, Any], net: nn.Module) -> None:
    """Whether the net has all that is to be frozen, adapted or slowed down; it stays as it is.

    Raises:
        ConfigError: a pattern or target without a match; no package for adapters; layers that the
            net does not tell, for `optimizer.layer_decay`.
    """
    matching(net, cfg["freeze"] or (), "freeze")
    matching(net, cfg["train_only"] or (), "train_only")
    lora = Lora(**cfg["lora"])
    if lora.rank:
        import_peft(lora.rank)
        target_layers(net, lora.targets)
    decay = cfg["optimizer"].get("layer_decay")
    if decay is not None:
        layer_scales(net, decay)


def begins_random(cfg: Mapping[str, Any]) -> bool:
    """Whether no weights are given to a net of ours or timm's; others may bring their own."""
    model = cfg["model"]
    theirs = model.get("pretrained") or not model["_target_"].startswith("vitfw.")
    return not cfg["init_from"] and not theirs


def adapt(
    net: nn.Module,
    freeze: Sequence[str] | None = (),
    train_only: Sequence[str] | None = (),
    lora: Mapping[str, Any] | None = None,
    anew: Iterable[str] = (),
) -> None:
    """Freeze parameters and add adapters, in place; the names in patterns are those before it.

    Trained is what `train_only` names, everything where it is empty, without what `freeze` names.
    With `lora` (options of `Lora`) of a rank above 0, trained are the adapters and what
    `train_only` names, the head where it is empty; the weights must have been loaded before.
    `anew` are the tensors that none were loaded into.

    Raises:
        ConfigError: a pattern or target without a match; nothing is left to train; parameters drawn
            `anew` would be frozen, and stay random.
    """
    freeze, train_only = freeze or (), train_only or ()
    adapters = Lora(**(lora or {}))
    random = trainable_of(net, anew)
    if train_only or adapters.rank:
        train_parameters(net, train_only or sorted(head_of(net)))
    freeze_parameters(net, freeze)
    refuse_frozen(net, random)
    if adapters.rank:
        add_adapters(net, adapters)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        asked = {"freeze": freeze, "train_only": train_only}
        said = " and ".join(f"{key}={list(names)}" for key, names in asked.items() if names)
        raise ConfigError(f"{said or 'the net'} leaves nothing to train; take a pattern out")


def trainable_of(net: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters among the tensors `names` that training is to shape."""
    parameters = dict(net.named_parameters())
    found = {name: parameters[name] for name in names if name in parameters}
    return {name: parameter for name, parameter in found.items() if parameter.requires_grad}


def refuse_frozen(net: nn.Module, random: Mapping[str, nn.Parameter]) -> None:
    """Raises ConfigError if one of the parameters `random` of the net is frozen."""
    frozen = parts_of(name for name, parameter in random.items() if not parameter.requires_grad)
    if frozen:
        wanted = sorted({*parts_of(random), *parts_of(head_of(net))})
        raise ConfigError(
            f"no weights were loaded into {', '.join(frozen)}: drawn at random, and frozen, so "
            f"that they would stay so; train them: train_only=[{','.join(wanted)}] or no freeze, "
            "or take a model without them, such as model.global_pool=avg"
        )


def parts_of(names: Iterable[str]) -> list[str]:
    """The patterns, such as `head.*`, of the parts of a net that the parameters belong to."""
    return sorted({f"{name.partition('.')[0]}.*" if "." in name else name for name in names})

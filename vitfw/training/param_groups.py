"""Parameter groups: which parameters are decayed, how fast each layer learns, what Muon steps.

Every optimizer takes the same groups. Each has `name`, `params`, `lr` and `weight_decay`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

from timm.models import group_parameters
from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.freezing import head_of, suggest

Group = dict[str, Any]
Overrides = Mapping[str, Mapping[str, float]]  # pattern of names → lr_scale, weight_decay

# The layers of our nets, as timm's `group_matcher` writes those of its own: the stem, the blocks
# one by one, the last norm with the last block; what matches nothing is the last layer.
LAYERS = {
    "stem": r"^(?:cls_token|dist_token|reg_token|pos_embed|patch_embed|norm_pre|rope)",
    "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
}


def trainable(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in net.named_parameters() if p.requires_grad)


def is_decayed(name: str, parameter: nn.Parameter, exempt: set[str]) -> bool:
    """Matrices and kernels are; norms, biases, tokens and position embeddings are not.

    Source: Steiner et al. 2021 and timm's `param_groups_weight_decay`.
    """
    return parameter.ndim > 1 and not name.endswith(".bias") and name not in exempt


def exempt_names(net: nn.Module) -> set[str]:
    """What the net itself names as not to be decayed (timm's convention `no_weight_decay`)."""
    named = getattr(net, "no_weight_decay", None)
    return set(named()) if callable(named) else set()


def hidden_matrices(net: nn.Module) -> set[str]:
    """Names of the 2-D weights inside the blocks: what Muon is for.

    Embedding, head, norms and biases are left to AdamW, as Jordan et al. 2024 advise. A net
    without `blocks` gives all its 2-D weights but the classifier's.
    """
    matrices = {name for name, p in trainable(net) if p.ndim == 2 and name.endswith("weight")}
    inside = {name for name in matrices if re.search(r"(^|\.)(blocks|stages|layers)\.", name)}
    return inside or matrices - head_of(net)


def layer_numbers(net: nn.Module) -> dict[str, int]:
    """The layer of each parameter, by name: 0 is the stem, the highest is the head.

    Raises:
        ConfigError: the net does not say which layers it has.
    """
    matcher: Any = getattr(net, "group_matcher", None)
    if isinstance(net, VisionTransformer):
        layers = LAYERS
    elif callable(matcher):
        layers = matcher(coarse=False)
    else:
        raise ConfigError(
            f"optimizer.layer_decay needs to know the layers of a net, and {type(net).__name__} "
            "does not tell: vitfw's models and timm's do; type optimizer.layer_decay=null"
        )
    numbers = cast(dict[str, int], group_parameters(net, layers, reverse=True))
    if len(set(numbers.values())) < 2:
        raise ConfigError(
            f"optimizer.layer_decay has no effect: all parameters of {type(net).__name__} are in "
            "one layer; type optimizer.layer_decay=null"
        )
    return numbers


def layer_scales(net: nn.Module, decay: float) -> dict[str, float]:
    """The share of the learning rate of each parameter: decay ^ (layers above its own).

    Raises:
        ConfigError: `decay` is not in (0, 1]; as `layer_numbers`.

    Source: Clark et al. 2020 (ELECTRA); the layers are those of Bao et al. 2022 (BEiT) and timm.
    """
    if not 0.0 < decay <= 1.0:
        raise ConfigError(
            f"optimizer.layer_decay={decay} is the share of the learning rate that a layer has of "
            "the next one's: above 0 and at most 1, such as 0.65, or null"
        )
    numbers = layer_numbers(net)
    top = max(numbers.values())
    return {name: decay ** (top - number) for name, number in numbers.items()}


@dataclass(frozen=True)
class Override:
    """What a pattern of parameter names asks for: a factor on the lr, another weight decay."""

    pattern: str
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


NO_OVERRIDE = Override("")
KINDS = ("muon", "decay", "no_decay", "")  # in the order of the groups; "" decays as overridden


def read_overrides(net: nn.Module, overrides: Overrides | None) -> list[Override]:
    """The overrides of a config, checked.

    Raises:
        ConfigError: a pattern matches no trainable parameter; unknown keys; values that are no
            number, or too small.
    """
    names = [name for name, _ in trainable(net)]
    rules = []
    for pattern, given in (overrides or {}).items():
        place = f"optimizer.overrides: {pattern}"
        if not isinstance(given, Mapping) or not given or set(given) - {"lr_scale", "weight_decay"}:
            raise ConfigError(f"{place} takes lr_scale and weight_decay, not {given}")
        for key, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ConfigError(f"{place} has {key}={value}; it must be a number, at least 0")
        rule = Override(pattern, **given)
        if rule.lr_scale == 0:
            raise ConfigError(f"{place} has lr_scale=0; freeze=['{pattern}'] leaves it as it is")
        if names and not any(rule.matches(name) for name in names):
            hint = suggest(pattern, names)
            raise ConfigError(f"{place} matches no parameter that is trained{hint}")
        rules.append(rule)
    return rules


def group_name(layer: int | None, kind: str, pattern: str) -> str:
    """`decay`, `layer_3_decay`, `layer_3_decay:*.attn.*`, `*.attn.*`"""
    words = [kind] if layer is None else [f"layer_{layer}", kind]
    within = "_".join(word for word in words if word)
    return ":".join(part for part in (within, pattern) if part)


def param_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
    muon: bool = False,
) -> list[Group]:
    """All trainable parameters, in groups of one learning rate and decay each; none is empty.

    They are `decay` and `no_decay`; with `muon` there is a group of that name, and the others are
    for its fallback. `layer_decay` makes such groups of each layer (`layer_0_decay`), an override
    one of what it matches (`decay:head.*`). An override's lr_scale comes on top of the layer's;
    its weight decay holds for all that it matches, norms and biases too. Where several match, the
    last one counts.

    Raises:
        ConfigError: nothing is trainable; as `layer_scales` and `read_overrides`.
    """
    exempt = exempt_names(net)
    hidden = hidden_matrices(net) if muon else set()
    numbers: dict[str, int] = {} if layer_decay is None else layer_numbers(net)
    scales = {} if layer_decay is None else layer_scales(net, layer_decay)
    rules = read_overrides(net, overrides)
    groups: dict[tuple[int, int, int], Group] = {}
    for name, parameter in trainable(net):
        kind = "decay" if is_decayed(name, parameter, exempt) else "no_decay"
        kind = "muon" if name in hidden else kind
        place = max((i for i, rule in enumerate(rules) if rule.matches(name)), default=-1)
        rule = rules[place] if place >= 0 else NO_OVERRIDE
        decay = 0.0 if kind == "no_decay" else weight_decay
        if rule.weight_decay is not None:
            decay, kind = rule.weight_decay, "muon" if kind == "muon" else ""
        group: Group = {
            "name": group_name(numbers.get(name), kind, rule.pattern),
            "params": [],
            "lr": lr * scales.get(name, 1.0) * rule.lr_scale,
            "weight_decay": decay,
        }
        if muon and kind != "muon":
            group["use_fallback"] = True
        key = (numbers.get(name, 0), KINDS.index(kind), place)
        groups.setdefault(key, group)["params"].append(parameter)
    if not groups:
        raise ConfigError(
            f"nothing of {type(net).__name__} can be trained: every parameter is frozen; "
            "train_only=[…] or freeze=[…] must leave some, such as freeze=['blocks.*']"
        )
    return [groups[key] for key in sorted(groups)]

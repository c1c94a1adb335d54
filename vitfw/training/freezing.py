"""Which parameters are trained, by patterns of their names."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitfw.errors import ConfigError, nearest

MOST_LISTED = 8
HEADS = ("head", "head_dist", "fc", "classifier")


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter whose name matches one of `patterns`, such as `blocks.0.*`.

    Raises:
        ConfigError: a pattern matches no name.
    """
    for name in matching(net, patterns, "freeze"):
        net.get_parameter(name).requires_grad_(False)


def train_only(net: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter but those whose names match; what is never trained stays so.

    Raises:
        ConfigError: a pattern matches no name.
    """
    names = matching(net, patterns, "train_only")
    for name, parameter in net.named_parameters():
        if name not in names:
            parameter.requires_grad_(False)


def matching(net: nn.Module, patterns: Sequence[str], key: str) -> set[str]:
    """Names of the parameters that match one of the patterns (`*`, `?`, `[…]`) at least."""
    names = [name for name, _ in net.named_parameters()]
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        here = {name for name in names if fnmatchcase(name, str(pattern))}
        if not here:
            hint = suggest(str(pattern), names)
            raise ConfigError(f"{key}: no parameter is called {pattern}{hint}")
        found |= here
    return found


def suggest(pattern: str, names: Sequence[str]) -> str:
    """`; did you mean …?` with what is within `pattern`, or with what is nearest to it.

    That is a parameter's name or a part of the net, of one block or, as `blocks.*`, of all.
    """
    if any(fnmatchcase(name, f"{pattern}.*") for name in names):
        return f"; did you mean {pattern}.*?"
    known = list(dict.fromkeys([*names, *(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names)]))
    parts = [name.split(".")[:depth] for name in known for depth in range(1, name.count(".") + 1)]
    within = list(dict.fromkeys(".".join([*part, "*"]) for part in parts))
    tops = list(dict.fromkeys(re.sub(r"\..*", ".*", name) for name in names))
    return nearest(pattern, [*within, *known]) or f"; there are {', '.join(tops[:MOST_LISTED])}"


def head_of(net: nn.Module) -> set[str]:
    """Names of the classifier's parameters."""
    starts = classifier_prefixes(net)
    return {name for name, _ in net.named_parameters() if name.startswith(starts)}


def classifier_prefixes(net: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's tensors begin; timm's models say it themselves."""
    named = getattr(net, "pretrained_cfg", {}).get("classifier") or HEADS
    return tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))


def keep_frozen_norms_still(net: nn.Module) -> None:
    """Put every BatchNorm whose parameters are all frozen into evaluation mode.

    In training mode it would go on to normalise by the batch and move its running statistics,
    which are no parameters: a frozen layer would not stay as it is.
    """
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
            module.eval()

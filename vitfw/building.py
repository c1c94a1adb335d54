"""From a plain config to objects: what a `_target_` may name, and building it."""

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vitfw.errors import ConfigError, causes

ALLOWED_TARGETS = (
    "vitfw.models.",
    "vitfw.data.",
    "vitfw.training.",
    "vitfw.callbacks.",
    "vitfw.interop.timm_model.",
    "torch.nn.",
    "torchvision.transforms.v2.",
    "torch.optim.",
    "lightning.Trainer",
    "lightning.pytorch.trainer.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
    "timm.models.",
    "timm.optim.",
)
TARGETS_VARIABLE = "VITFW_TARGETS"


def build(node: dict[str, Any], **more: Any) -> Any:
    """The object that `_target_` names, from plain arguments; nested ones first.

    Raises:
        ConfigError: a `_target_` outside the allow-list; arguments that its constructor refuses.
    """
    check_targets(node)
    try:
        return hydra.utils.instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        for cause in causes(error):
            if isinstance(cause, ValueError | TypeError | MisconfigurationException):
                raise ConfigError(_constructor_message(node, cause)) from error
        raise


def _constructor_message(node: dict[str, Any], error: Exception) -> str:
    text = " ".join(str(error).split())
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    if unexpected is None:
        return text
    option = unexpected[1]
    for inner in targeted(node):
        target = inner["_target_"]
        known = inspect.signature(hydra.utils.get_object(target)).parameters
        if option in inner and option not in known:
            return f"{target} has no option {option!r}; known: {', '.join(known)}"
    return text


def targeted(node: Any) -> Iterator[dict[str, Any]]:
    """The node and those inside it that have a `_target_`."""
    if isinstance(node, dict) and node.get("_target_") is not None:
        yield node
    inside = node.values() if isinstance(node, dict) else node
    for inner in inside if isinstance(node, dict | list) else ():
        yield from targeted(inner)


def check_targets(node: Any) -> None:
    """Refuse every `_target_` that is not on the allow-list, before anything is imported.

    Raises:
        ConfigError: names the target.
    """
    for inner in targeted(node):
        check_target(str(inner["_target_"]))


def check_target(target: str) -> None:
    own = tuple(p for p in os.environ.get(TARGETS_VARIABLE, "").split(",") if p)
    allowed = ALLOWED_TARGETS + own
    if not target.startswith(allowed):
        raise ConfigError(
            f"_target_ {target!r} is not allowed; allowed are names under {', '.join(allowed)} "
            f"(to use your own package: {TARGETS_VARIABLE}=package.)"
        )
    # `vitfw.data.reading.fetch.os.system` and `torch.nn.functional.torch.hub.load` start well; what
    # they name must come from an allowed place, too.
    try:
        found = hydra.utils.get_object(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"_target_ {target!r} does not exist: {error}") from error
    home = f"{getattr(found, '__module__', '')}."
    if not home.startswith(allowed) or not callable(found):
        raise ConfigError(f"_target_ {target!r} is not allowed: it comes from {home[:-1]}")
    # Other libraries' functions read files and fetch weights; their classes only build objects.
    if not isinstance(found, type) and not home.startswith(("vitfw.", *own)):
        hint = "; model=timm model.name=… builds timm's models" if home.startswith("timm.") else ""
        raise ConfigError(f"_target_ {target!r} is not allowed: it is a function, no class{hint}")

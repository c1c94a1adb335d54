"""The names by which a config's `_target_` calls classes and functions."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any


def target_of(made: Any) -> str:
    """The `_target_` of a class or function."""
    return f"{made.__module__}.{made.__qualname__}"


def comes_from(node: Mapping[str, Any], *modules: ModuleType) -> bool:
    """Whether what the node names is defined in one of `modules`."""
    return str(node["_target_"]).startswith(tuple(f"{module.__name__}." for module in modules))

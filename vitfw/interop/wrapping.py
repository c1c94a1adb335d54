"""The tensors of a checkpoint, out of what is around them and around their names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitfw.errors import ConfigError

# Where several are there, the first: averaged weights before raw ones, as they are evaluated.
WRAPPINGS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "student")
DEEPEST = 4
# What trainers and compilers put before every name of a model.
OUTER = ("module.", "_orig_mod.", "model.", "net.")


def unwrap(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, and what is to be said of where they were found.

    Raises:
        ConfigError: there are no tensors, or several sets of them and none has a known name.
    """
    path, notes, part = wrapping_of(content), [], content
    for key in path:
        others = [name for name in (*WRAPPINGS, *part) if name != key and leads_to(part, name)]
        if others:
            notes.append(f"read {key!r} and not {', '.join(dict.fromkeys(map(repr, others)))}")
        elif key not in WRAPPINGS:
            notes.append(f"read {key!r}, the only part with tensors in it")
        part = part[key]
    return {str(name): value for name, value in part.items() if isinstance(value, Tensor)}, notes


def wrapping_of(content: Mapping[str, Any], deepest: int = DEEPEST) -> list[str]:
    """The keys that lead to the weights of a checkpoint: `[]`, `["model"]`, `["ema", "model"]`.

    Raises:
        ConfigError: there are no tensors, or several sets of them and none has a known name.
    """
    for name in WRAPPINGS:
        if leads_to(content, name, deepest):
            return [name, *wrapping_of(content[name], deepest - 1)]
    parts = [name for name in content if isinstance(name, str) and tensors_in(content[name])]
    if parts and max(tensors_in(content[name]) for name in parts) > tensors_in(content):
        if len(parts) > 1:
            raise ConfigError(
                f"the checkpoint holds several sets of weights ({', '.join(parts)}); save the one "
                f"that is meant alone, or as {WRAPPINGS[3]!r}"
            )
        return parts
    if tensors_in(content):
        return []
    keys = ", ".join(map(str, list(content)[:8])) or "nothing"
    raise ConfigError(f"the checkpoint holds no weights; its keys: {keys}")


def leads_to(content: Mapping[str, Any], name: str, deepest: int = DEEPEST) -> bool:
    """Whether there are tensors in the part `name`, or in a wrapping within it."""
    part = content.get(name)
    if not isinstance(part, Mapping) or not deepest:
        return False
    return bool(tensors_in(part)) or any(leads_to(part, inner, deepest - 1) for inner in WRAPPINGS)


def tensors_in(part: Any) -> int:
    if not isinstance(part, Mapping):
        return 0
    return sum(isinstance(value, Tensor) for value in part.values())


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` without what is before all of its names."""
    outer = next((o for o in OUTER if state and all(name.startswith(o) for name in state)), None)
    if outer is None:
        return state
    return bare({name.removeprefix(outer): tensor for name, tensor in state.items()})


def check_tensors(state: Mapping[str, Tensor]) -> None:
    """Raises ConfigError for a tensor whose numbers are not there to be read as they are."""
    for name, tensor in state.items():
        if problem := what_is_wrong(tensor):
            raise ConfigError(f"{name} {problem}; weights are dense and of real numbers")


def what_is_wrong(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "is on the meta device: it has a shape and no numbers"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if not tensor.numel():
        return f"is empty: {list(tensor.shape)}"
    if tensor.is_complex():
        return "is complex"
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is quantised ({str(tensor.dtype).removeprefix('torch.')})"
    return ""

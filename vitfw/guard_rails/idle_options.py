"""The rule on options that were typed and do nothing beside the others."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vitfw.config import typed_keys

Config = dict[str, Any]


class Idle(NamedTuple):
    """`keys` have no effect where the config `is_idle`; `remedy` is what gives them one."""

    keys: tuple[str, ...]
    is_idle: Callable[[Config], bool]
    remedy: str


IDLE = (
    Idle(
        ("lora.alpha", "lora.dropout", "lora.targets"),
        lambda cfg: not cfg["lora"]["rank"],
        "lora.rank=8",
    ),
    Idle(("lr_batch_size",), lambda cfg: cfg["lr_scaling"] == "none", "lr_scaling=sqrt"),
    Idle(
        ("method.temperature",),
        lambda cfg: cfg["method"].get("kind") == "hard",
        "method.kind=soft",
    ),
)


def idle_keys(cfg: Config, overrides: Sequence[str]) -> dict[str, str]:
    """Those that were typed, each with what would give it an effect."""
    typed = typed_keys(overrides)
    return {
        key: idle.remedy for idle in IDLE if idle.is_idle(cfg) for key in typed if key in idle.keys
    }

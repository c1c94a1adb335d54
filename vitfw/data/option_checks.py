"""Refusing values of `data` that cannot be, by name."""

from collections.abc import Sequence
from types import UnionType

from vitfw.errors import ConfigError


def check_word(key: str, value: object, known: Sequence[object]) -> None:
    """Raises ConfigError where a setting is none of the known words."""
    if not any(value is word or (value == word and isinstance(value, str)) for word in known):
        words = ", ".join("null" if word is None else str(word).lower() for word in known)
        raise ConfigError(f"data.{key}={value} is not one of: {words}")


def check_number(key: str, value: object, kind: type | UnionType) -> None:
    """Raises ConfigError where a setting is neither a number of this kind nor null."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise ConfigError(f"data.{key}={value} is not a {'whole ' * (kind is int)}number, or null")

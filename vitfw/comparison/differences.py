"""What differs between the configs of runs, without what only follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitfw.comparison.run import Run
from vitfw.comparison.words import ABSENT

PLACES = ("run_dir", "resume")  # where a run is put is no part of what it is

Table = dict[str, list[Any]]  # key → its value in each run


def differences(runs: Sequence[Run]) -> Table:
    """The parameters that are not the same in all runs, with the value of each run.

    Of a study they are what its sweeper drew. Of other runs they are the typed choices (`model`,
    `experiment`) and the config keys that differ, but for keys nobody typed that have the same
    values as another one (an interpolation) or follow from a choice (`model.depth` from `model`).
    """
    if runs and all(run.drawn is not None for run in runs):
        return varying([run.drawn or {} for run in runs])
    configs = [without_place(run.config) for run in runs]
    typed = [dict(split(word) for word in run.typed if "=" in word) for run in runs]
    choices = varying([chosen(words, config) for words, config in zip(typed, configs, strict=True)])
    keys = varying(configs)
    by_hand = {key for words in typed for key in words}
    kept: Table = dict(choices)
    for key in sorted(keys, key=lambda key: key not in by_hand):
        follows_from_another = follows(keys[key], choices) or keys[key] in kept.values()
        if key in by_hand or not follows_from_another:
            kept[key] = keys[key]
    return {key: kept[key] for key in [*choices, *keys] if key in kept}


def split(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+~").partition("=")
    return key.partition("@")[0], value


def chosen(words: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """The overrides that choose an option of a group: those that are no value of the config."""
    return {
        key: value
        for key, value in words.items()
        if key not in config and "." not in key and key not in PLACES
    }


def without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it would be in any other folder."""
    place = str(config.get("run_dir") or "")

    def moved(value: Any) -> Any:
        return value.replace(place, "") if place and isinstance(value, str) else value

    return {key: moved(value) for key, value in config.items() if key not in PLACES}


def varying(mappings: Sequence[Mapping[str, Any]]) -> Table:
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    table = {key: [mapping.get(key, ABSENT) for mapping in mappings] for key in keys}
    return {key: values for key, values in table.items() if any(v != values[0] for v in values)}


def follows(values: Sequence[Any], choices: Table) -> bool:
    """Whether runs of the same choices always have the same value."""
    seen: dict[tuple[Any, ...], Any] = {}
    for i, value in enumerate(values):
        if seen.setdefault(tuple(column[i] for column in choices.values()), value) != value:
            return False
    return bool(choices)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """`optimizer.lr` → `lr`, unless another key ends so; `optimizer._target_` → `optimizer`."""
    parts = {key: key.removesuffix("._target_").split(".") for key in keys}
    names = {}
    for key, words in parts.items():
        for length in range(1, len(words) + 1):
            names[key] = ".".join(words[-length:])
            others = (other[-length:] for k, other in parts.items() if k != key)
            if words[-length:] not in others:
                break
    return names

"""From what was typed to a plain config: composing, checking, and telling what was wrong."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitfw.data.catalog import facts_of
from vitfw.data.packs.pack_manifest import packed_fact
from vitfw.data.reading.sources import count_classes
from vitfw.errors import ConfigError, causes, nearest

# Groups of which a recipe sets an option and its numbers; of others, as of model, numbers alone.
CHOSEN_BY_RECIPES = ("augment", "optimizer", "scheduler", "loss", "method", "average")
# A number by default, or in a recipe, but "auto" and "0,1", or "2ep" and 5%, are good, too.
TAKES_WORDS = (
    "trainer.devices",
    *(f"scheduler.{key}" for key in ("warmup", "cooldown", "timescale", "length")),
    *(f"average.{key}" for key in ("start", "every")),
)
MOST_LISTED = 12  # options of a group beside the nearest ones


def config_folder() -> Path:
    """`vitfw/configs` of an installed wheel, `configs/` of a checkout."""
    package = Path(__file__).parent
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


def register_resolvers() -> None:
    """What YAML files may ask: facts of a data set, and how many classes it has."""

    def fact(name: str, key: str) -> Any:
        value = getattr(facts_of(name), key)
        return list(value) if isinstance(value, tuple) else value

    def pack(root: str, storage_options: DictConfig, key: str) -> Any:
        return packed_fact(root, to_plain(storage_options), key)

    def needed_weights(*, _root_: DictConfig) -> None:
        if not OmegaConf.select(_root_, "model.pretrained"):
            raise ConfigError("init_from is needed: give init_from=…")

    def kept(only: Any, count: int | None) -> int | None:
        return len(only) if isinstance(only, ListConfig) else count

    OmegaConf.register_new_resolver("dataset", fact, replace=True)
    OmegaConf.register_new_resolver("needed_weights", needed_weights, replace=True)
    OmegaConf.register_new_resolver("pack", pack, replace=True)
    OmegaConf.register_new_resolver("classes_in", count_classes, replace=True)
    OmegaConf.register_new_resolver("kept_classes", kept, replace=True)


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The config that a command was asked for.

    Raises:
        ConfigError: an unknown key or option (names the nearest), a malformed override, a value
            of the wrong kind, a missing value.
    """
    register_resolvers()
    try:
        config = prefer_typed_groups(config_name, overrides, _compose(config_name, overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain_failure(config_name, overrides, error)) from error
    check_kinds(config_name, overrides, config)
    return config


def _compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    with composing():
        return hydra.compose(config_name, list(overrides))


@contextmanager
def composing() -> Iterator[None]:
    """Hydra ready to compose, also within a job of Hydra's own."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def prefer_typed_groups(
    config_name: str, overrides: Sequence[str], config: DictConfig
) -> DictConfig:
    """A group that is typed beside a recipe is as its file says, without the recipe's numbers.

    `recipe=finetune optimizer=sgd` is SGD at its own learning rate: the recipe's is AdamW's. Where
    the recipe chooses the same option, or none of that group, its numbers hold.
    """
    typed = dict(word.split("=", 1) for word in overrides if "=" in word)
    groups = [group for group in CHOSEN_BY_RECIPES if group in typed and group in config]
    if not groups or not {"recipe", "experiment"} & typed.keys():
        return config
    recipes = [word for word in overrides if word.split("=")[0] in ("recipe", "experiment")]
    with composing():
        whole = hydra.compose(config_name, recipes, return_hydra_config=True)
    for group in groups:
        if whole.hydra.runtime.choices[group] != typed[group]:
            words = [
                word
                for word in overrides
                if word.startswith((f"{group}=", f"{group}.", f"{group}@", "data=", "data.name="))
            ]
            config[group] = _compose(config_name, words)[group]
    return config


def check_sweep(config_name: str, overrides: Sequence[str]) -> None:
    """Compose with every value that a sweep names, before the sweep has a folder.

    Every value is tried once, beside the first value of the other keys.

    Raises:
        ConfigError: as `compose`.
    """
    choices: dict[str, list[str]] = {}
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except OverrideParseException as error:
            raise ConfigError(explain_failure(config_name, overrides, error)) from error
        swept = override.is_discrete_sweep()
        values = list(override.sweep_string_iterator()) if swept else []
        if override.is_sweep_override() and not swept:
            refuse_interval(config_name, overrides, text)
            continue  # the sweeper draws from it, and checks its key
        key = override.get_key_element()
        choices[text] = [f"{key}={value}" for value in values] if swept else [text]
        if not choices[text]:
            raise ConfigError(f"{text} sweeps over nothing: the range is empty")
    first = {text: options[0] for text, options in choices.items()}
    compose(config_name, list(first.values()))
    for text, options in choices.items():
        for option in options[1:]:
            compose(config_name, list({**first, text: option}.values()))


def refuse_interval(config_name: str, overrides: Sequence[str], interval: str) -> None:
    """Raises ConfigError: the sweeper chosen runs every value, and an interval has too many."""
    groups = [word for word in overrides if word.startswith(("hydra/", "experiment="))]
    with composing():
        whole = hydra.compose(config_name, groups, return_hydra_config=True)
    if whole.hydra.runtime.choices["hydra/sweeper"] == "basic":
        raise ConfigError(
            f"{interval} has no end of values: type hydra/sweeper=optuna to search there, or name "
            "the values, key=1e-3,3e-3"
        )


def explain_failure(config_name: str, overrides: Sequence[str], error: Exception) -> str:
    """One line for an error of Hydra's, with the nearest valid names."""
    for cause in causes(error):
        if isinstance(cause, ConfigError):
            return str(cause)
    if isinstance(error, OverrideParseException):
        return explain_override(str(error.override))
    if isinstance(error, MissingConfigException) and error.options:
        options = [option for option in error.options if not option.startswith("_")]
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        hint = nearest(name, options)
        if not hint or len(options) <= MOST_LISTED:
            hint = f"{hint or ';'} known: {', '.join(options)}"
        return f"{group}={name} does not exist{hint}"
    if needed := explain_missing(error) or explain_null(overrides, error):
        return needed
    unknown = re.search(r"Could not (?:override|append|delete) .*?'([^'\s]+)'", str(error))
    if unknown:
        key = unknown[1].split("@")[0]
        return f"no config key is called {key!r}{suggest_key(config_name, overrides, key)}"
    return " ".join(str(error).split())


def explain_override(word: str) -> str:
    """What to type for a word that cannot be read."""
    value = word.partition("=")[2]
    if value.startswith(("[", "{")):
        for opening, closing in ("[]", "{}"):
            if value.count(opening) != value.count(closing):
                return f"{word!r} cannot be read: it has not as many {opening} as {closing}"
        return (
            f"{word!r} cannot be read: a name with brackets or blanks needs quotes, and the whole "
            "word single ones, or the shell takes them away: 'freeze=[\"blocks.[0-5].*\"]'"
        )
    return f"{word!r} is not an override; write key=value, such as optimizer.lr=1e-3"


def explain_missing(error: Exception) -> str | None:
    """What to give, where a value is asked for that has none, directly or by an interpolation."""
    text = str(error)
    if "Missing mandatory value" not in text:
        return None
    keys = re.findall(r"(?:Missing mandatory value|full_key): (\S+)", text)
    if not keys:
        return None
    key = keys[-1] if keys[-1].endswith(keys[0]) else keys[0]  # what asked, or what it asked for
    return f"{key} is needed: give {key}=…"


def explain_null(overrides: Sequence[str], error: Exception) -> str | None:
    """What to give for a group, where `null` was."""
    if "Config group override must be" not in str(error):
        return None
    typed = [text for text in group_choices(overrides) if text.partition("=")[2] in ("null", "")]
    if not typed:
        return None
    group = typed[0].partition("=")[0]
    known = ", ".join(options_of(config_folder() / group))
    return f"{typed[0]}: a group is one of its options; known: {known}"


def options_of(group: Path) -> list[str]:
    """The options of a group, by its folder; files that begin with `_` are parts of others."""
    return sorted(path.stem for path in group.glob("[!_]*.yaml"))


def group_choices(overrides: Sequence[str]) -> list[str]:
    """Those that choose an option of a group; single values are left out."""
    groups = {folder.name for folder in config_folder().iterdir() if folder.is_dir()}
    return [text for text in overrides if re.split("[@=]", text.lstrip("+"))[0] in groups]


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """What stands before the `=` of each override."""
    return [text.lstrip("+").partition("=")[0] for text in overrides]


def suggest_key(config_name: str, overrides: Sequence[str], key: str) -> str:
    """The valid keys nearest to `key`, given the groups that were chosen."""
    groups = sorted(p.name for p in config_folder().iterdir() if p.is_dir())
    try:
        chosen = _compose(config_name, group_choices(overrides))
        keys = list(flatten(to_plain(chosen, resolve=False)))
    except (HydraException, OmegaConfBaseException):
        keys = []
    same_end = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_end:
        return f"; did you mean {', '.join(same_end[:3])}?"
    siblings = [known for known in keys if known.startswith(key.rpartition(".")[0])]
    hint = nearest(key, [*keys, *groups]) or nearest(
        key.rpartition(".")[2], {known.rpartition(".")[2] for known in keys}
    )
    if not hint and "." in key and siblings:
        hint = f"; known there: {', '.join(siblings)}"
    return hint or f"; `vitfw {config_name} --cfg job` prints all keys"


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists are leaves."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def check_kinds(config_name: str, overrides: Sequence[str], config: DictConfig) -> None:
    """A number stays a number, a switch a switch: compare with the defaults of the same groups.

    Raises:
        ConfigError: an override put a word where a number or true/false stands.
    """
    values = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        is_group = (config_folder() / key).is_dir()
        if not is_group and not override.is_add() and not override.is_delete():
            values.append(override)
    if not values:
        return
    typed = {override.input_line for override in values}
    defaults = _compose(config_name, [text for text in overrides if text not in typed])
    for override in values:
        key = override.key_or_group
        try:
            default, value = OmegaConf.select(defaults, key), OmegaConf.select(config, key)
        except (OmegaConfBaseException, ConfigError):
            continue  # it needs a value that is not there yet; building will say so
        wanted = kind_of(default)
        is_scalar = isinstance(value, str | bool | int | float)  # an image size may be a pair
        if key in TAKES_WORDS:
            continue
        if wanted and is_scalar and kind_of(value) != wanted:
            raise ConfigError(f"{key}={value} should be {wanted}, such as {key}={default}")


def kind_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return None


def to_plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Plain dicts, lists and scalars.

    Raises:
        ConfigError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        for cause in causes(error):
            if isinstance(cause, ConfigError):
                raise cause from error
        raise ConfigError(explain_missing(error) or " ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def as_yaml(plain: dict[str, Any] | list[Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(plain))

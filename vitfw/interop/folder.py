"""What is told beside the tensors, above all by a folder with `config.json` and a file of weights.

Hugging Face's config has the options of the model; timm's names one of its architectures, with
the arguments that were given to it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitfw.checkpoint import is_number
from vitfw.errors import ConfigError
from vitfw.interop import huggingface

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What would fetch or read weights, which a config is not to ask for.
NO_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "pretrained_strict",
    "scriptable",
    "exportable",
    "no_jit",
)


@dataclass(frozen=True)
class Folder:
    """What lies in it: the file of weights, `config.json`, and how images are normalised."""

    path: Path
    weights: Path
    config: dict[str, Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def read_folder(path: Path) -> Folder:
    """What lies in the folder `path`.

    Raises:
        ConfigError: there are no weights in it, or no config that can be read.
    """
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not (path / "config.json").is_file() or not files:
        raise ConfigError(
            f"{path} is a folder without config.json and {' or '.join(WEIGHTS)}; give a file"
        )
    config = read_object(path / "config.json")
    mean, std = pair_of(config.get("pretrained_cfg"), "mean", "std")
    if (path / "preprocessor_config.json").is_file():
        preprocessor = read_object(path / "preprocessor_config.json")
        mean, std = pair_of(preprocessor, "image_mean", "image_std")
    return Folder(path, files[0], config, mean, std)


def read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not an object with names")
    return content


def metadata_of(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself, as far as it is JSON: ours has the model's config."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    found = {}
    for name, text in said.items():
        with suppress(ValueError, RecursionError):
            found[name] = json.loads(text)
    return found


def pair_of(facts: Any, mean: str, std: str) -> tuple[tuple[float, ...] | None, ...]:
    """Mean and std of each channel; None, None where they are not both there."""
    pair = [facts.get(name) for name in (mean, std)] if isinstance(facts, Mapping) else []
    channels = [
        tuple(numbers)
        for numbers in pair
        if isinstance(numbers, list | tuple) and all(map(is_number, numbers))
    ]
    return (channels[0], channels[1]) if len(channels) == 2 else (None, None)


def huggingface_options(folder: Folder) -> dict[str, Any]:
    """Options of our VisionTransformer.

    Raises:
        ConfigError: the config is of another model, or makes no sense.
    """
    try:
        return huggingface.options_of(folder.config)
    except ConfigError as error:
        raise ConfigError(f"{folder.path}: {error}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ConfigError(
            f"{folder.path / 'config.json'} is no config of {folder.config['model_type']}: {error}"
        ) from error


def timm_model(folder: Folder) -> nn.Module | None:
    """The model that timm's config names, without its weights; None where it names none.

    Raises:
        ConfigError: timm cannot build it with these arguments.
    """
    import timm

    config = folder.config
    name, given = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    try:
        arguments = {key: given[key] for key in given if key not in NO_ARGUMENTS}
        arguments.setdefault("num_classes", config.get("num_classes"))
        with torch.device("meta"):
            return timm.create_model(name, False, **arguments)
    except Exception as error:  # whatever arguments that make no sense lead to
        said = " ".join(str(error).split())
        raise ConfigError(
            f"timm cannot build {name} from {folder.path / 'config.json'}: {said}"
        ) from error

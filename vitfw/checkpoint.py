"""Checkpoints: written so that none is ever half there, read so that none can run code."""

import argparse
import dataclasses
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from vitfw.atomic import replacing
from vitfw.errors import ConfigError, nearest

KEY = "vitfw"
SUFFIXES = (".ckpt", ".safetensors", ".pth", ".pt", ".bin", ".npz")  # files that hold weights
FORMAT = 1
AVERAGE = "average.net."  # what the names of averaged weights begin with
WEIGHTS = ("auto", "raw", "average")
GRAPHS = (".onnx", ".pt2")


@dataclass(frozen=True)
class Passport:
    """What travels inside a checkpoint, so that it can be used with nothing else at hand.

    `config` is the resolved config of the run, plain types only. Images are fitted to `img_size`
    (height, width) with `crop_share`, then normalised with `mean` and `std`.
    """

    config: dict[str, Any]
    classes: list[str]
    channels: int
    img_size: list[int]
    crop_share: float
    mean: list[float]
    std: list[float]
    versions: dict[str, str]
    format: int = FORMAT


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file, sync, rename: a reader sees the old file or the new one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        path = Path(path)
        with replacing(path) as partial, open(partial, "wb") as sink:
            torch.save(checkpoint, sink)
            sink.flush()
            os.fsync(sink.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return load_file(Path(path))


class PassportCallback(L.Callback):
    """Puts the passport into every checkpoint."""

    def __init__(self, passport: Passport):
        self.passport = passport

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = asdict(self.passport)


def load_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint or state-dict file, on the CPU; nothing in it is run.

    Reads what `torch.save` wrote, and safetensors.

    Raises:
        ConfigError: there is no such file, it is cut off, it holds more than plain data, or it is
            a graph.
    """
    if not path.is_file():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        found = sorted(p.name for p in beside if p.suffix in SUFFIXES)
        hint = nearest(path.name, found) or (f"; there: {some(found)}" if found else "")
        raise ConfigError(f"there is no checkpoint {path}{hint}")
    if path.suffix in GRAPHS:
        raise ConfigError(
            f"{path} is a graph, which weights cannot be read back from; give the checkpoint that "
            "it was exported from, or an export with format=safetensors"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # DeiT, MAE and DINO have one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # the opcode that names a class or function
            raise ConfigError(
                f"{path} holds more than tensors and plain data; it was not loaded, because "
                "loading it could run code"
            ) from error
        raise ConfigError(f"{path} is not a checkpoint, or was cut off") from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:  # what torch and the unpickler raise on bytes that are no checkpoint
        raise ConfigError(f"{path} is not a checkpoint, or was cut off") from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise ConfigError(f"{path} is not a safetensors file, or was cut off") from error
        raise
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def passport_of(path: Path, weights: str = "auto") -> tuple[Passport, dict[str, Tensor]]:
    """The passport of one of our checkpoints, and the state dict of its net.

    `weights` says of which net: `raw`, what was trained; `average`, the average of that; `auto`,
    the average where there is one.

    Raises:
        ConfigError: it cannot be read, vitfw did not write it, its fields make no sense, or it
            has no average.
    """
    return read_passport(load_file(path), path, weights)


def read_passport(
    content: Mapping[str, Any], path: Path, weights: str = "auto"
) -> tuple[Passport, dict[str, Tensor]]:
    """The same of what `path` holds."""
    if not is_ours(content):
        raise ConfigError(
            f"{path} was not written by vitfw: it has no config inside. Weights alone can start "
            f"a run: vitfw train init_from={path} model=…"
        )
    fields, state = content[KEY], content.get("state_dict")
    if not isinstance(fields, Mapping) or not isinstance(state, Mapping):
        raise ConfigError(f"{path} says it is vitfw's, but not what is in it")
    if fields.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {fields.get('format')}; this version reads {FORMAT}"
        )
    expected = {field.name for field in dataclasses.fields(Passport)}
    if wrong := sorted(map(str, expected ^ set(fields))):
        raise ConfigError(f"{path} has a passport with other fields than vitfw's: {some(wrong)}")
    if nonsense := [name for name, makes_sense in SENSE.items() if not makes_sense(fields[name])]:
        said = ", ".join(f"{name}={fields[name]!r:.60}" for name in nonsense)
        raise ConfigError(f"{path} has a passport that makes no sense: {said}")
    return Passport(**fields), net_weights(state, path, weights)


def net_weights(state: Mapping[Any, Any], path: Path, weights: str) -> dict[str, Tensor]:
    """The tensors of the net, or of its average, under the net's own names."""
    if weights not in WEIGHTS:
        raise ConfigError(f"weights={weights} is not one of: {', '.join(WEIGHTS)}")
    averaged = any(isinstance(name, str) and name.startswith(AVERAGE) for name in state)
    if weights == "average" and not averaged:
        raise ConfigError(
            f"{path} has no averaged weights: it was trained with average=none; weights=raw"
        )
    prefix = "net." if weights == "raw" or not averaged else AVERAGE
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(value, Tensor)
    }


def is_ours(content: Mapping[str, Any]) -> bool:
    """Whether vitfw wrote it; a tensor may have any name, also that of our passport."""
    return KEY in content and not isinstance(content[KEY], Tensor)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    return is_number(value) and isinstance(value, int) and value > 0


def all_are(kind: Callable[[Any], bool], values: Any) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(map(kind, values))


# What the passport's fields must be like, so that nothing that uses one has to ask again.
SENSE: dict[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict) and isinstance(value.get("model"), dict),
    "classes": lambda value: all_are(lambda name: isinstance(name, str), value),
    "channels": is_count,
    "img_size": lambda value: all_are(is_count, value) and len(value) == 2,
    "crop_share": lambda value: is_number(value) and 0 < value <= 1,
    "mean": lambda value: all_are(is_number, value),
    "std": lambda value: all_are(lambda x: is_number(x) and x > 0, value),
    "versions": lambda value: isinstance(value, dict),
}


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        ConfigError: names the tensors that are missing, left over, or of another shape.
    """
    own = net.state_dict()
    refuse_disagreement(
        source,
        missing=sorted(set(own) - set(weights)),
        unknown=sorted(set(weights) - set(own)),
        reshaped=[
            misfit(name, weights[name], own[name])
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    )
    net.load_state_dict(weights)


def misfit(name: str, theirs: Tensor, ours: Tensor) -> str:
    return f"{name} {list(theirs.shape)} instead of {list(ours.shape)}"


def refuse_integers(source: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises ConfigError for integers where the net has real numbers."""
    for name, tensor in given.items():
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"{source}: {name} is of type {kind}, and weights are real numbers")


def refuse_disagreement(
    source: str, missing: list[str], unknown: list[str], reshaped: list[str], hint: str = ""
) -> None:
    """Raises ConfigError, which names the tensors, if there is anything in the three lists."""
    kinds = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    problems = [f"{len(names)} {what} ({some(names)})" for what, names in kinds.items() if names]
    if problems:
        raise ConfigError(f"{source} is of another model: tensors {'; '.join(problems)}{hint}")


def some(names: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`"""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")

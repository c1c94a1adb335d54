"""Checkpoints: written so that none is ever half there, read so that none can run code."""

import argparse
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
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
FORMAT = 1


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
        ConfigError: there is no such file, it is cut off, or it holds more than plain data.
    """
    if not path.is_file():
        found = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = nearest(path.name, found) or (f"; there: {', '.join(found)}" if found else "")
        raise ConfigError(f"there is no checkpoint {path}{hint}")
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


def passport_of(path: Path) -> tuple[Passport, dict[str, Tensor]]:
    """The passport of one of our checkpoints, and the state dict of its net.

    Raises:
        ConfigError: it cannot be read, or vitfw did not write it.
    """
    content = load_file(path)
    if KEY not in content or "state_dict" not in content:
        raise ConfigError(
            f"{path} was not written by vitfw: it has no config inside. Weights alone can start "
            f"a run: vitfw train init_from={path} model=…"
        )
    fields = dict(content[KEY])
    if fields.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {fields.get('format')}; this version reads {FORMAT}"
        )
    return Passport(**fields), net_weights(content)


def net_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The net's tensors out of a checkpoint of ours, or of any common wrapping of a state dict."""
    state = content
    for wrapping in ("state_dict", "model", "module"):
        if isinstance(state.get(wrapping), Mapping):
            state = state[wrapping]
            break
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    inside = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
    return inside or tensors


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

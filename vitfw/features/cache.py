"""Features in a file, which a run that goes on reads instead of computing them again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vitfw.atomic import held, replacing
from vitfw.features.compute import Features
from vitfw.training.pooled_features import classifier_layers

NO_MATTER = (  # options of `data` that change no feature
    "batch_size",
    "cache_dir",
    "cache_gb",
    "channels_last",
    "class_weights",
    "download",
    "eval_batch_size",
    "max_bad_share",
    "num_workers",
    "resident",
    "resident_share",
    "sampling",
    "seed",
    "storage_options",
)
WHERE_THEY_LIE = ("csv", "huggingface", "image_folder")  # `data` that are what is found at `root`


def depends_on(data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """What of the configs of `data` and `model` features depend on, beside the weights.

    A data set that has a name is the same wherever it was downloaded to; one's own is its root,
    and so is a pack.
    """
    found = {key: value for key, value in data.items() if key not in NO_MATTER}
    root = str(found.pop("root", ""))
    if found.get("name") in WHERE_THEY_LIE or "storage_options" in data:
        is_path = "://" not in root and found.get("name") != "huggingface"
        found["root"] = str(Path(root).expanduser().absolute()) if is_path else root
    return {"data": found, "model": dict(model)}


def features_key(net: nn.Module, described: Mapping[str, Any]) -> str:
    """A hash of all that features depend on: weights below the classifier, and `described`."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    names = {module: name for name, module in net.named_modules()}
    left_out = tuple(f"{names[layer]}." for layer in classifier_layers(net))
    for name, tensor in net.state_dict().items():
        if not name.startswith(left_out):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(memoryview(raw.numpy()))
    return digest.hexdigest()


def cached_features(path: Path, key: str, compute: Callable[[], Features]) -> Features:
    """What the file holds, if it was computed by the same `key`; else compute it and write it.

    Of several processes one computes, and the others wait for the file.
    """
    with held(path.parent):
        found = read_features(path, key)
        if found is None:
            found = compute()
            with replacing(path) as partial:
                save_file(found._asdict(), partial, metadata={"key": key})
        return found


def read_features(path: Path, key: str) -> Features | None:
    """None where there is no such file, or of another key."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return Features(file.get_tensor("values"), file.get_tensor("labels"))
    except SafetensorError:  # not ours, or damaged
        return None

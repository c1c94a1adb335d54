"""Google's ViT weights: .npz archives with flax's names, as its two code bases write them.

C channels, H heads, D head dim, P patch size, L blocks.

| flax | here |
|---|---|
| `embedding/kernel` [P, P, in_chans, C] | `patch_embed.proj.weight` [C, in_chans, P, P] |
| `query/kernel` [C, H, D], `query/bias` [H, D]; key, value | `attn.qkv` [3C, C], [3C] |
| `out/kernel` [H, D, C] | `attn.proj.weight` [C, C] |
| any other `kernel` [in, out] | `weight` [out, in] |
| `scale` of a norm | `weight` |

Written are the names of vision_transformer (`MultiHeadDotProductAttention_1`, `MlpBlock_3`).
Those of big_vision are read too: `_0`, below `params/`, the blocks stacked along a first axis.

Source: Dosovitskiy et al. 2021; `MAPHead_0` is Zhai et al. 2022, "Scaling vision transformers".
"""

import math
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitfw.atomic import replacing
from vitfw.errors import ConfigError
from vitfw.interop.translation import Table, Translated, mlp_ratio_of, to_ours, to_theirs

ROOTS = ("opt/target/", "params/img/", "params/", "")
BFLOAT16 = np.dtype("V2")  # numpy has no bfloat16: two bytes without a meaning

NOT_AN_ARCHIVE = (  # what numpy and zipfile raise on bytes that are none
    OSError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # with NotImplementedError
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)

BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = "MultiHeadDotProductAttention"
# With `weight` for `kernel` and `scale`; parts of a block as vision_transformer numbers them.
WRITTEN: Table = (
    ("cls", "cls_token"),
    ("Transformer/posembed_input/pos_embedding", "pos_embed"),
    ("embedding/{p}", "patch_embed.proj.{p}"),
    (f"{BLOCK}/LayerNorm_0/{{p}}", "blocks.{i}.norm1.{p}"),
    (f"{BLOCK}/{ATTENTION}_1/{{query|key|value}}/{{p}}", "blocks.{i}.attn.qkv.{p}"),
    (f"{BLOCK}/{ATTENTION}_1/out/{{p}}", "blocks.{i}.attn.proj.{p}"),
    (f"{BLOCK}/LayerNorm_2/{{p}}", "blocks.{i}.norm2.{p}"),
    (f"{BLOCK}/MlpBlock_3/Dense_0/{{p}}", "blocks.{i}.mlp.fc1.{p}"),
    (f"{BLOCK}/MlpBlock_3/Dense_1/{{p}}", "blocks.{i}.mlp.fc2.{p}"),
    ("Transformer/encoder_norm/{p}", "norm.{p}"),
    ("MAPHead_0/probe", "attn_pool.latent"),
    (f"MAPHead_0/{ATTENTION}_0/query/{{p}}", "attn_pool.q.{p}"),
    (f"MAPHead_0/{ATTENTION}_0/{{key|value}}/{{p}}", "attn_pool.kv.{p}"),
    (f"MAPHead_0/{ATTENTION}_0/out/{{p}}", "attn_pool.proj.{p}"),
    ("MAPHead_0/LayerNorm_0/{p}", "attn_pool.norm.{p}"),
    ("MAPHead_0/MlpBlock_0/Dense_0/{p}", "attn_pool.mlp.fc1.{p}"),
    ("MAPHead_0/MlpBlock_0/Dense_1/{p}", "attn_pool.mlp.fc2.{p}"),
    ("head/{p}", "head.{p}"),
)
BIG_VISION = {
    f"/{ATTENTION}_1/": f"/{ATTENTION}_0/",
    "/MlpBlock_3/": "/MlpBlock_0/",
    "/LayerNorm_2/": "/LayerNorm_1/",
    "Transformer/posembed_input/": "",
}
READ: Table = tuple(
    (theirs.replace(old, new), ours)
    for theirs, ours in WRITTEN
    for old, new in BIG_VISION.items()
    if old in theirs
)
TABLE: Table = (*WRITTEN, *READ)
REPRESENTATION: Table = (
    ("pre_logits/{p}", "the representation layer before the head; this model has none"),
    ("head/{p}", "trained behind the representation layer pre_logits; this model has none"),
)
ELSEWHERE = {
    r"opt/(?!target/)": "state of the optimizer",
    r"params/txt/": "the text tower",
    r"params/[tb]$": "temperature and bias of the contrastive loss",
}


# ── the archive ───────────────────────────────────────────────────────────────────────────────


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz archive; nothing in it is run.

    Raises:
        ConfigError: there is no such file, it is cut off, or it holds more than arrays of numbers.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} is not an .npz archive of named arrays")
        with archive:
            return {name: as_tensor(archive[name]) for name in archive.files}
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not an .npz archive of numbers, or was cut off; "
            "objects in it are never loaded, because that could run code"
        ) from error
    except NOT_AN_ARCHIVE as error:
        raise ConfigError(f"{path} is not an .npz archive, or was cut off") from error


def as_tensor(array: Any) -> Tensor:
    if not isinstance(array, np.ndarray):
        raise ValueError("a member of the archive is not an array")
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def write_npz(path: Path, state: Mapping[str, Tensor], num_heads: int) -> None:
    """Write a model's weights under flax's names; a reader never sees half a file."""
    flax = from_vitfw(state, num_heads)
    arrays: dict[str, Any] = {name: as_array(tensor) for name, tensor in flax.items()}
    with replacing(path) as partial, open(partial, "wb") as sink:
        np.savez(sink, **arrays)


def as_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


# ── names and axes ────────────────────────────────────────────────────────────────────────────


def recognises(names: Collection[str]) -> bool:
    return any(f"{root}embedding/kernel" in names for root in ROOTS)


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    """Flax's names and axes to ours.

    A file with a representation layer (`pre_logits`) loses it, and the head trained behind it.
    """
    root = next((root for root in ROOTS if f"{root}embedding/kernel" in state), "")
    flat: dict[str, Tensor] = {}
    source: dict[str, str] = {}  # name in `flat` → name in `state`
    ignored: dict[str, str] = {}
    unknown: list[str] = []
    for name, array in state.items():
        why = next((why for start, why in ELSEWHERE.items() if re.match(start, name)), None)
        if why:
            ignored[name] = why
            continue
        short = name.removeprefix(root) if name.startswith(root) else f"/{name}"  # in no table
        stacked = short.startswith("Transformer/encoderblock/") and array.ndim
        for i, block in enumerate(array.unbind(0)) if stacked else [(0, array)]:
            one = short.replace("encoderblock/", f"encoderblock_{i}/", 1)
            layout, rank = layout_of(one)
            one = re.sub("/(kernel|scale)$", "/weight", one)
            if one in flat:
                unknown += [source[one], name]
            elif block.ndim == rank:
                flat[one], source[one] = to_torch(layout, block), name
            else:
                unknown.append(name)
    flat = {one: array for one, array in flat.items() if source[one] not in unknown}
    represented = any(name.startswith("pre_logits/") for name in flat)
    translated = to_ours(TABLE, REPRESENTATION if represented else (), flat)
    ignored |= {source[name]: why for name, why in translated.ignored.items()}
    unknown += [source[name] for name in translated.unknown]
    return Translated(translated.state, ignored, list(dict.fromkeys(unknown)))


def from_vitfw(state: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Our names and axes to flax's, the inverse of `to_vitfw`.

    Raises:
        ConfigError: the format has no place for some tensors, which the message names; or
            `num_heads` does not divide the width.
    """
    if num_heads < 1 or any(len(state[name]) % num_heads for name in {"norm.weight"} & set(state)):
        raise ConfigError(f"num_heads {num_heads} does not divide the model's embed_dim")
    flax = {}
    for name, tensor in to_theirs(TABLE, state, "Google's .npz format").items():
        kind = "scale" if re.search("LayerNorm_|encoder_norm", name) else "kernel"
        name = re.sub("/weight$", f"/{kind}", name)
        flax[name] = to_flax(layout_of(name)[0], tensor, num_heads).contiguous()
    return flax


def layout_of(name: str) -> tuple[str, int]:
    """How the array called `name` lies in a file, and how many axes it has."""
    *_, layer, kind = ("", *name.split("/"))
    if layer in ("query", "key", "value"):
        return ("into heads", 3) if kind == "kernel" else ("bias of heads", 2)
    if name == "embedding/kernel":
        return "patches", 4
    if kind == "kernel":
        return ("out of heads", 3) if layer == "out" else ("linear", 2)
    return ("tokens", 3) if kind in ("cls", "pos_embedding", "probe") else ("vector", 1)


def to_torch(layout: str, array: Tensor) -> Tensor:
    match layout:
        case "into heads":
            array = array.flatten(1).T  # [C, H, D] → [H · D, C]
        case "bias of heads":
            array = array.flatten()  # [H, D] → [H · D]
        case "out of heads":
            array = array.flatten(0, 1).T  # [H, D, C] → [C, H · D]
        case "patches":
            array = array.permute(3, 2, 0, 1)  # [P, P, in_chans, C] → [C, in_chans, P, P]
        case "linear":
            array = array.T  # [in, out] → [out, in]
    return array.contiguous()


def to_flax(layout: str, tensor: Tensor, num_heads: int) -> Tensor:
    """The inverse of `to_torch`."""
    match layout:
        case "into heads":
            return tensor.T.unflatten(1, (num_heads, -1))
        case "bias of heads":
            return tensor.unflatten(0, (num_heads, -1))
        case "out of heads":
            return tensor.T.unflatten(0, (num_heads, -1))
        case "patches":
            return tensor.permute(2, 3, 1, 0)
    return tensor.T if layout == "linear" else tensor


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of our VisionTransformer for these arrays, which have flax's names.

    The grid is taken as square; where it cannot be, `img_size` is left out.
    """
    ours = to_vitfw(state).state
    heads = [array.shape[-2] for name, array in state.items() if name.endswith("query/kernel")]
    if not heads or not {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= set(ours):
        raise ConfigError("these are not the weights of a ViT under flax's names")
    dim, in_chans, height, width = ours["patch_embed.proj.weight"].shape
    prefix = int("cls_token" in ours)
    options: dict[str, Any] = {
        "patch_size": (height, width),
        "in_chans": in_chans,
        "num_classes": len(ours["head.weight"]) if "head.weight" in ours else 0,
        "embed_dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("blocks.")),
        "num_heads": heads[0],
        "mlp_ratio": mlp_ratio_of(len(ours["blocks.0.mlp.fc1.weight"]), dim),
        "qkv_bias": "blocks.0.attn.qkv.bias" in ours,
        "class_token": bool(prefix),
    }
    if "pos_embed" in ours:
        patches = ours["pos_embed"].shape[1] - prefix
        side = math.isqrt(patches)
        if side * side == patches:
            options["img_size"] = (side * height, side * width)
    if "attn_pool.latent" in ours:
        options["global_pool"] = "map"
    elif not prefix:  # big_vision averages what `encoder_norm` has normalised
        options |= {"global_pool": "avg", "fc_norm": False}
    return options

"""DeiT, DeiT III, MAE, DINO and DINOv2 checkpoints as their authors released them.

C channels, G grid side, R registers, K classes.

All five name a block's tensors as timm and we do. What differs:

| | in the file | here |
|---|---|---|
| all | tensors below `model`, `state_dict`, `teacher`, …, names below `module.`, `backbone.`, … | |
| DeiT III | `gamma_1`, `gamma_2` | `ls1.gamma`, `ls2.gamma` |
| MAE | `decoder_*`, `mask_token` | |
| DINO | `head.mlp`, `head.last_layer`: the projection | |
| DINOv2 | `register_tokens` [1, R, C] | `reg_token` |
| | `pos_embed` [1, 1 + G · G, C] | R rows of zeros after the first |
| | `blocks.{chunk}.{i}.` | `blocks.{i}.` |
| | `mlp.w12`, `mlp.w3` | `mlp.fc1`, `mlp.fc2` (swiglu_packed) |
| | `linear_head` [K, 2C] | `head` (global_pool=token_avg) |

There is no writer: our own names are what DeiT and MAE read.

Source: Touvron et al. 2021 and 2022; He et al. 2022; Caron et al. 2021; Oquab et al. 2024;
Darcet et al. 2024 for the registers.
"""

import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vitfw.errors import ConfigError
from vitfw.interop.translation import Table, Translated, mlp_ratio_of, to_ours
from vitfw.models.construction import CHOICES
from vitfw.models.vit import VisionTransformer

# Where several are there, the first: averaged weights before raw ones, as they are evaluated.
WRAPPINGS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "student")
ANCHOR = "patch_embed.proj.weight"

TABLE: Table = (
    ("register_tokens", "reg_token"),
    ("blocks.{i}.gamma_1", "blocks.{i}.ls1.gamma"),
    ("blocks.{i}.gamma_2", "blocks.{i}.ls2.gamma"),
    ("blocks.{i}.mlp.w12.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("blocks.{i}.mlp.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("../linear_head.{p}", "head.{p}"),  # `../` is beside the model, not in it
)
TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}
IGNORED = {  # pattern → reason
    r"mask_token": "stands for hidden patches in pre-training",
    r"decoder_.+": "the decoder of MAE's pre-training",
    r"\.\./head\.(mlp|last_layer)\..+": "the projection head of DINO's pre-training",
    r"\.\./(dino|ibot)_(head|loss)\..+": "the projection head of DINOv2's pre-training",
}
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}  # of all published models, by C


# ── wrappings ─────────────────────────────────────────────────────────────────────────────────


def unwrap(content: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, from wherever `wrapping_of` finds them."""
    for part in wrapping_of(content, key):
        content = content[part]
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def wrapping_of(content: Mapping[str, Any], key: str | None = None) -> list[str]:
    """The keys that lead to the tensors of a checkpoint: `[]`, `["model"]`, `["ema", "model"]`.

    `key` names the one to take where there are several (`student` instead of `teacher`).

    Raises:
        ConfigError: there are no tensors, or none below `key`.
    """
    inner = {name: part for name, part in content.items() if isinstance(part, Mapping) and part}
    if key is not None:
        if key not in inner:
            there = ", ".join(map(str, inner)) or "none"
            raise ConfigError(f"the checkpoint holds no weights {key!r}; there: {there}")
        return [key, *wrapping_of(inner[key])]
    if any(isinstance(part, Tensor) for part in content.values()):
        return []
    for name in WRAPPINGS:
        if name in inner:
            return [name, *wrapping_of(inner[name])]
    keys = ", ".join(map(str, list(content)[:8])) or "nothing"
    raise ConfigError(f"the checkpoint holds no weights; its keys: {keys}")


def prefixes_of(names: Collection[str]) -> list[str]:
    """What comes before the names of each model in a file: `["module.backbone."]`, `[""]`."""
    found = (name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR))
    return [prefix for prefix in found if not prefix or prefix.endswith(".")]


# ── names ─────────────────────────────────────────────────────────────────────────────────────


def recognises(names: Collection[str]) -> bool:
    """Whether the tensors are those of a ViT under its authors' names, or under ours."""
    qkv = r"blocks\.(\d+\.)?\d+\.attn\.qkv\.weight"
    patterns = [re.compile(re.escape(prefix) + qkv) for prefix in prefixes_of(names)]
    return any(pattern.fullmatch(name) for pattern in patterns for name in names)


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    """The authors' names to ours; they may all be below a prefix such as `module.`.

    Raises:
        ConfigError: there are several models in `state`.
    """
    prefixes = prefixes_of(state) or [""]
    if len(prefixes) > 1:
        raise ConfigError(
            f"the file holds several models; keep the tensors below one of: {', '.join(prefixes)}"
        )
    source = {bare_name(name, prefixes[0]): name for name in state}
    rows = [(name, why) for name in source for p, why in IGNORED.items() if re.fullmatch(p, name)]
    ours = {name: state[full] for name, full in source.items() if pattern_of(name) in our_names()}
    others = {name: state[full] for name, full in source.items() if name not in ours}
    translated = to_ours(TABLE, rows, others)
    ours |= translated.state
    if "register_tokens" in source and "pos_embed" in ours:
        first, patches = ours["pos_embed"].split([1, ours["pos_embed"].shape[1] - 1], dim=1)
        rows_of_registers = torch.zeros_like(ours["reg_token"])
        ours["pos_embed"] = torch.cat([first, rows_of_registers, patches], dim=1)
    ignored = {source[name]: why for name, why in translated.ignored.items()}
    return Translated(ours, ignored, [source[name] for name in translated.unknown])


def pattern_of(name: str) -> str:
    return re.sub(r"\d+", "0", name)


@cache
def our_names() -> frozenset[str]:
    """All tensors that any of our models has, with 0 for every number."""
    norms = {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "pre_norm": True}
    variants: list[dict[str, Any]] = [
        {"dist_token": True, "reg_tokens": 1, "init_values": 1.0},
        {**norms, "k_bias": False, "embed_norm": True, "rope": "mixed"},
        {**norms, "fused_qkv": False, "mlp_layer": "swiglu"},
        *({"global_pool": name} for name in CHOICES["global_pool"]),
        *({"embed_layer": name} for name in CHOICES["embed_layer"]),
        *(
            {"block_layer": name, "init_values": 1.0, "qk_norm": True}
            for name in CHOICES["block_layer"]
        ),
    ]
    with torch.device("meta"):
        models = [VisionTransformer(**{**TINY, **variant}) for variant in variants]
    return frozenset(pattern_of(name) for model in models for name in model.state_dict())


def bare_name(name: str, prefix: str) -> str:
    """`module.backbone.blocks.0.3.x` → `blocks.3.x`; `module.head.x` → `../head.x`."""
    if not name.startswith(prefix):
        above = prefix[: prefix[:-1].rfind(".") + 1]
        return "../" + name.removeprefix(above)
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name[len(prefix) :])


def options_of(state: Mapping[str, Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """Options of our VisionTransformer for these tensors.

    No tensor tells the number of heads; None stands for that of the published model as wide. The
    grid is taken as square; where it cannot be, `img_size` is left out.

    Raises:
        ConfigError: no published model is as wide, or these are not a ViT's tensors.
    """
    ours = to_vitfw(state).state
    if not {ANCHOR, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"} <= set(ours):
        raise ConfigError("these are not the weights of a ViT")
    dim, in_chans, height, width = ours[ANCHOR].shape
    if num_heads is None and dim not in HEADS:
        raise ConfigError(f"no published model has embed_dim {dim}; say num_heads")
    hidden, gated = (
        ours[f"blocks.0.mlp.{name}.weight"].shape[i] for i, name in ((0, "fc1"), (1, "fc2"))
    )
    registers = ours["reg_token"].shape[1] if "reg_token" in ours else 0
    options: dict[str, Any] = {
        "patch_size": (height, width),
        "in_chans": in_chans,
        "num_classes": len(ours["head.weight"]) if "head.weight" in ours else 0,
        "embed_dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("blocks.")),
        "num_heads": num_heads or HEADS[dim],
        "mlp_ratio": mlp_ratio_of(hidden, dim),
        "mlp_layer": "swiglu_packed" if hidden == 2 * gated else "mlp",
        "qkv_bias": "blocks.0.attn.qkv.bias" in ours,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in ours else None,
        "class_token": "cls_token" in ours,
        "dist_token": "dist_token" in ours,
        "reg_tokens": registers,
        "global_pool": "token",
    }
    if "fc_norm.weight" in ours or not options["class_token"]:
        options["global_pool"] = "avg"
    elif "head.weight" in ours and ours["head.weight"].shape[1] == 2 * dim:
        options["global_pool"] = "token_avg"
    if "pos_embed" in ours:
        prefix = options["class_token"] + options["dist_token"] + registers
        rows = ours["pos_embed"].shape[1]
        options["no_embed_class"] = math.isqrt(rows) ** 2 == rows
        patches = rows if options["no_embed_class"] else rows - prefix
        side = math.isqrt(patches)
        if side * side == patches:
            options["img_size"] = (side * height, side * width)
    return options

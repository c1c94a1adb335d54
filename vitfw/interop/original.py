"""DeiT, DeiT III, MAE, DINO and DINOv2 checkpoints as their authors released them.

C channels, G grid side, R registers, K classes.

All five name a block's tensors as timm and we do. What differs:

| | in the file | here |
|---|---|---|
| all | names below `module.`, `backbone.`, … | |
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

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vitfw.errors import ConfigError
from vitfw.interop.translation import (
    Table,
    Translated,
    add_rows_of_registers,
    our_name,
    to_ours,
)
from vitfw.models.construction import CHOICES
from vitfw.models.vit import VisionTransformer

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


def prefixes_of(names: Collection[str]) -> list[str]:
    """What comes before the names of each model in a file: `["module.backbone."]`, `[""]`."""
    found = (name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR))
    return [prefix for prefix in found if not prefix or prefix.endswith(".")]


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
    bare: dict[str, list[str]] = {}
    for name in state:
        bare.setdefault(bare_name(name, prefixes[0]), []).append(name)
    doubled = [name for names in bare.values() if len(names) > 1 for name in names]
    source = {name: names[0] for name, names in bare.items() if len(names) == 1}
    rows = [(name, why) for name in source for p, why in IGNORED.items() if re.fullmatch(p, name)]
    ours = {name: state[full] for name, full in source.items() if pattern_of(name) in our_names()}
    others = {name: state[full] for name, full in source.items() if name not in ours}
    translated = to_ours(TABLE, rows, others)
    for name in sorted(ours.keys() & translated.state.keys()):  # under our name and under theirs
        doubled += [source[name], *(source[o] for o in others if our_name(o, TABLE) == name)]
        del ours[name], translated.state[name]
    ours |= translated.state
    if "register_tokens" in source:
        add_rows_of_registers(ours)
    ignored = {source[name]: why for name, why in translated.ignored.items()}
    return Translated(ours, ignored, [*(source[name] for name in translated.unknown), *doubled])


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

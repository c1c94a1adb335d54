"""Timm's class Eva: EVA, EVA-02, DINOv3, RoPE-ViT and Perception Encoder backbones.

Its tensors have our names but for LayerScale, `gamma_1` and `gamma_2`, which is `ls1.gamma` and
`ls2.gamma` here. What its key projection has no bias for, `k_bias=False`, is stored as
`attn.q_bias` and `attn.v_bias` in both.

Which options a model needs is read off the model, as its tensors do not tell how it turns queries
and keys.

Source: timm.models.eva; Fang et al. 2023; Siméoni et al. 2025; Heo et al. 2024.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from vitfw.errors import ConfigError
from vitfw.interop.translation import Table, Translated, mlp_ratio_of, to_ours
from vitfw.models.patch_embed import as_pair

SAME = (
    "cls_token",
    "reg_token",
    "pos_embed",
    "rope.freqs",
    "patch_embed.proj.{p}",
    "norm_pre.{p}",
    "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.q_bias",
    "blocks.{i}.attn.v_bias",
    "blocks.{i}.attn.q_proj.{p}",
    "blocks.{i}.attn.k_proj.{p}",
    "blocks.{i}.attn.v_proj.{p}",
    "blocks.{i}.attn.q_norm.{p}",
    "blocks.{i}.attn.k_norm.{p}",
    "blocks.{i}.attn.norm.{p}",
    "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.fc1_g.{p}",
    "blocks.{i}.mlp.fc1_x.{p}",
    "blocks.{i}.mlp.norm.{p}",
    "blocks.{i}.mlp.fc2.{p}",
    "norm.{p}",
    "fc_norm.{p}",
    "attn_pool.latent",
    "attn_pool.q.{p}",
    "attn_pool.kv.{p}",
    "attn_pool.proj.{p}",
    "attn_pool.norm.{p}",
    "attn_pool.mlp.fc1.{p}",
    "attn_pool.mlp.fc2.{p}",
    "head.{p}",
)
LAYER_SCALE: Table = tuple((f"blocks.{{i}}.gamma_{i}", f"blocks.{{i}}.ls{i}.gamma") for i in (1, 2))
TABLE: Table = (*LAYER_SCALE, *((name, name) for name in SAME))
BACK: Table = tuple((ours, theirs) for theirs, ours in TABLE)
MARKS = (
    r"blocks\.\d+\.(gamma_1|attn\.[qv]_bias|attn\.q_proj\.weight|mlp\.fc1_g\.weight)|rope\.freqs"
)
NOT_THEIRS = r"dist_token|patch_embed\.norm\..+|blocks\.\d+\.ls1\.gamma|seq_pool\..+"

ROPES = {
    "RotaryEmbeddingCat": "axial",
    "RotaryEmbeddingDinoV3": "dinov3",
    "RotaryEmbeddingMixed": "mixed",
}
NORMS = {"LayerNorm": "layernorm", "RmsNorm": "rmsnorm", "RMSNorm": "rmsnorm"}


def recognises(names: Collection[str]) -> bool:
    """Whether the tensors bear a mark of the class.

    RoPE-ViT and Perception Encoder backbones without LayerScale bear none: their names are those
    of timm's VisionTransformer, and ours.
    """
    if "patch_embed.proj.weight" not in names:
        return False
    marked = any(re.fullmatch(MARKS, name) for name in names)
    return marked and not any(re.fullmatch(NOT_THEIRS, name) for name in names)


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    return to_ours(TABLE, (), state)


def from_vitfw(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_vitfw`.

    Raises:
        ConfigError: the class has no place for some of the tensors; the message names them.
    """
    written = to_ours(BACK, (), state)
    if written.unknown:
        raise ConfigError(f"timm's Eva has no place for {', '.join(written.unknown)}")
    return written.state


def options_of(model: Any) -> dict[str, Any]:
    """Options of our VisionTransformer that make it compute what `model`, a timm Eva, does.

    Raises:
        ConfigError: our model cannot; the message says what it lacks.
    """
    lacking = list(dict.fromkeys(lacking_of(model)))
    if lacking:
        raise ConfigError(f"VisionTransformer has no {', no '.join(lacking)}")
    block = model.blocks[0]
    head, embed = model.head, model.patch_embed
    normalised = has(model.norm) or has(model.fc_norm)
    options: dict[str, Any] = {
        "img_size": as_pair(embed.img_size),
        "patch_size": as_pair(embed.patch_size),
        "in_chans": embed.proj.in_channels,
        "num_classes": head.out_features if isinstance(head, nn.Linear) else 0,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "init_values": block.init_values,
        "class_token": model.cls_token is not None,
        "reg_tokens": 0 if model.reg_token is None else model.reg_token.shape[1],
        "pos_embed": "none" if model.pos_embed is None else "learn",
        "no_embed_class": model.no_embed_class,
        "pre_norm": has(model.norm_pre),
        "final_norm": normalised,
        "fc_norm": has(model.fc_norm) if normalised else None,
        "global_pool": model.global_pool,
        "norm_layer": NORMS[type(block.norm1).__name__],
        "norm_eps": block.norm1.eps,
        "dynamic_img_size": model.dynamic_img_size,
    }
    options |= attention_of(block.attn) | mlp_of(block.mlp)
    return options | rope_of(model.rope) | rates_of(model)


def attention_of(attn: Any) -> dict[str, Any]:
    fused = attn.qkv is not None
    query, key = (attn.qkv, attn.qkv) if fused else (attn.q_proj, attn.k_proj)
    lone = getattr(attn, "q_bias", None) is not None  # beside `qkv`, which then has none
    return {
        "fused_qkv": fused,
        "qkv_bias": lone or query.bias is not None,
        "k_bias": key.bias is not None or not (lone or query.bias is not None),
        "qk_norm": has(attn.q_norm),
        "scale_attn_norm": has(attn.norm),
    }


def mlp_of(mlp: Any) -> dict[str, Any]:
    """The MLP; its hidden channels are counted, so that there is nothing left to align."""
    kind = {"SwiGLU": "swiglu", "GluMlp": "swiglu_packed"}.get(type(mlp).__name__, "mlp")
    first = first_layer(mlp)
    return {
        "mlp_layer": kind,
        "mlp_ratio": mlp_ratio_of(first.out_features, first.in_features),
        "scale_mlp_norm": has(mlp.norm),
    }


def rope_of(rope: Any) -> dict[str, Any]:
    if rope is None:
        return {"rope": "none"}
    kind = ROPES[type(rope).__name__]
    options: dict[str, Any] = {"rope": kind, "rope_temperature": float(rope.temperature)}
    options["rope_indexing"] = rope.grid_indexing
    if kind != "mixed":
        options |= {"rope_grid_offset": rope.grid_offset, "rope_rotate_half": rope.rotate_half}
    if kind == "axial" and rope.ref_feat_shape is not None:
        options["rope_ref_grid"] = as_pair(rope.ref_feat_shape)
    for name in ("shift_coords", "jitter_coords", "rescale_coords"):
        options[f"rope_{name}"] = getattr(rope, name)
    return options


def rates_of(model: Any) -> dict[str, float]:
    attn, last = model.blocks[0].attn, model.blocks[-1]
    return {
        "drop_rate": model.head_drop.p,
        "pos_drop_rate": model.pos_drop.p,
        "patch_drop_rate": model.patch_drop.prob if model.patch_drop is not None else 0.0,
        "attn_drop_rate": attn.attn_drop.p,
        "proj_drop_rate": attn.proj_drop.p,
        "drop_path_rate": last.drop_path1.drop_prob if has(last.drop_path1) else 0.0,
    }


def lacking_of(model: Any) -> Iterator[str]:
    """What a timm Eva has and our model has not."""
    if type(model.rope).__name__ not in (*ROPES, "NoneType"):
        yield f"rope like {type(model.rope).__name__}"
    if type(model.blocks[0].norm1).__name__ not in NORMS:
        yield f"norm_layer like {type(model.blocks[0].norm1).__name__}"
    if has(model.norm) and has(model.fc_norm):
        yield "norm both before and after pooling"
    if model.global_pool not in ("token", "avg", "map"):
        yield f"global_pool like {model.global_pool!r}"
    if model.patch_embed.dynamic_img_pad:
        yield "padding of images to whole patches (dynamic_img_pad)"
    for block in model.blocks:
        attn = block.attn
        if type(block).__name__ == "EvaBlockPostNorm":
            yield "block that normalises after attention and MLP (use_post_norm)"
            continue
        if getattr(attn, "num_kv_heads", attn.num_heads) != attn.num_heads:
            yield "grouped-query attention (num_kv_heads)"
        if (block.gamma_1 is None) != (block.gamma_2 is None):
            yield "LayerScale on the attention alone (attn_only_layer_scale)"
        if attn.gate is not None:
            yield "gated attention (gated_attn)"
        if attn.num_heads * attn.head_dim != model.embed_dim:
            yield "head dim other than embed_dim / num_heads (attn_head_dim)"
    pool = model.attn_pool
    if pool is not None:
        if model.num_prefix_tokens:
            yield "attention pool over the class token too"
        if pool.num_heads != model.blocks[0].attn.num_heads:
            yield "attention pool with heads of its own (attn_pool_num_heads)"
        if pool.mlp.fc1.out_features != first_layer(model.blocks[0].mlp).out_features:
            yield "attention pool with an MLP of its own width (attn_pool_mlp_ratio)"


def first_layer(mlp: Any) -> nn.Linear:
    return mlp.fc1_g if hasattr(mlp, "fc1_g") else mlp.fc1


def has(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Identity)

"""Hugging Face's ViT, DeiT and DINOv2: their tensor names, their configs, and the models.

| family | what it has | with us |
|---|---|---|
| vit | a class token, classified | the defaults |
| deit | a distillation token beside it, not classified | reg_tokens=1 |
| deit_with_teacher | a head on each of the two, logits averaged | dist_token |
| dinov2 | LayerScale, a head on [class token, mean of patches] | init_values, token_avg |
| dinov2_with_registers | the same, registers after the class token | reg_tokens |

transformers 5 has other names in memory than in files (transformers 4 has not); both spellings are
read. A model without a head, such as `ViTModel`, has no `vit.` before its names; with us it has
num_classes=0.

Registers have no position embedding there and one here, so `to_vitfw` pads `pos_embed` with rows of
zeros; `from_vitfw` adds those rows to the register tokens, which computes the same.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from vitfw.errors import ConfigError
from vitfw.interop.huggingface_config import CLASSES, build_peer, options_of
from vitfw.interop.translation import (
    Table,
    Translated,
    add_rows_of_registers,
    check_tokens,
    to_ours,
    to_theirs,
)

__all__ = ["build_peer", "from_vitfw", "load_peer", "options_of", "recognises", "to_vitfw"]

PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")

Rows = tuple[tuple[str, str], ...]

EMBEDDINGS: Rows = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    ("layernorm.{p}", "norm.{p}"),
)
VIT_FILE: Rows = (
    ("encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    ("encoder.layer.{i}.attention.attention.{query|key|value}.{p}", "blocks.{i}.attn.qkv.{p}"),
    ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    ("encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    ("encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
)
VIT_MEMORY: Rows = (
    ("layers.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    ("layers.{i}.attention.{q_proj|k_proj|v_proj}.{p}", "blocks.{i}.attn.qkv.{p}"),
    ("layers.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    ("layers.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    ("layers.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("layers.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
)
DINOV2: Rows = (
    ("encoder.layer.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    ("encoder.layer.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    ("encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
    ("encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
)
DINOV2_MLP: Rows = (
    ("encoder.layer.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("encoder.layer.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
)
DINOV2_FILE: Rows = (
    ("encoder.layer.{i}.attention.attention.{query|key|value}.{p}", "blocks.{i}.attn.qkv.{p}"),
    ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    ("encoder.layer.{i}.mlp.weights_in.{p}", "blocks.{i}.mlp.fc1.{p}"),  # rows: gate, value
    ("encoder.layer.{i}.mlp.weights_out.{p}", "blocks.{i}.mlp.fc2.{p}"),
)
DINOV2_MEMORY: Rows = (
    ("encoder.layer.{i}.attention.{q_proj|k_proj|v_proj}.{p}", "blocks.{i}.attn.qkv.{p}"),
    ("encoder.layer.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    ("encoder.layer.{i}.mlp.{gate_proj|up_proj}.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("encoder.layer.{i}.mlp.down_proj.{p}", "blocks.{i}.mlp.fc2.{p}"),
)
TOKENS: dict[str, Rows] = {
    "vit": (),
    "deit": (("embeddings.distillation_token", "reg_token"),),
    "deit_with_teacher": (("embeddings.distillation_token", "dist_token"),),
    "dinov2": (),
    "dinov2_with_registers": (("embeddings.register_tokens", "reg_token"),),
}
HEAD: Rows = (("classifier.{p}", "head.{p}"),)
TWO_HEADS: Rows = (
    ("cls_classifier.{p}", "head.{p}"),
    ("distillation_classifier.{p}", "head_dist.{p}"),
)
IGNORED: Rows = (
    ("pooler.dense.{p}", "pooler: a layer after the class token that classification does not use"),
    ("embeddings.mask_token", "mask token: stands for patches that only pre-training hides"),
)


def recognises(names: Collection[str]) -> bool:
    """Are these the tensors of one of the five families, in either spelling?"""
    return any(prefix + "embeddings.cls_token" in names for prefix in ("", *PREFIXES)) and any(
        name.endswith("embeddings.patch_embeddings.projection.weight") for name in names
    )


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    """Hugging Face's tensors, in either spelling, under our names."""
    family, prefix = _family_of_names(state), _prefix_of(state)
    ignored = [(prefix + theirs, reason) for theirs, reason in IGNORED]
    translated = to_ours(_table(family, prefix), ignored, state)
    if family == "dinov2_with_registers":
        add_rows_of_registers(translated.state)
    return translated


def from_vitfw(state: Mapping[str, Tensor], like: Collection[str] = ()) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names: those of files, or spelt `like` those of a model.

    Raises:
        ConfigError: the family has no place for some of them; the message names them.
    """
    family = _family_of_ours(state)
    with_head, without = CLASSES[family]
    check_tokens(state, with_head)
    _check_shapes(state, family)
    ours = dict(state)
    if family == "dinov2_with_registers":
        registers = ours["reg_token"].shape[1]
        rows = ours["pos_embed"][:, 1 : 1 + registers]
        if rows.count_nonzero():
            ours["reg_token"] = ours["reg_token"] + rows
        # [1, 1 + R + N, C] → [1, 1 + N, C]
        kept = [ours["pos_embed"][:, :1], ours["pos_embed"][:, 1 + registers :]]
        ours["pos_embed"] = torch.cat(kept, dim=1)
    prefix = _prefix_of(like)
    if not like and ("head.weight" in ours or without is None):
        prefix = family.removesuffix("_with_teacher") + "."
    in_memory = any(name.endswith(".attention.q_proj.weight") for name in like)
    table = _table(family, prefix, in_memory, _is_swiglu(ours))
    return to_theirs(table, ours, with_head)


def load_peer(peer: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy our tensors into `peer`, which `build_peer` made from the options of the same model."""
    written = from_vitfw(state, like=list(peer.state_dict()))
    result = peer.load_state_dict(written, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith(".mask_token")]
    if missing or result.unexpected_keys:
        raise ConfigError(
            f"these weights are not of this {type(peer).__name__}: it lacks "
            f"{missing or 'nothing'}, and has no {result.unexpected_keys or 'surplus'}"
        )


def _table(family: str, prefix: str, in_memory: bool = False, swiglu: bool = False) -> Table:
    """All rows of the family; those that are to be written before their alternatives."""
    if family.startswith("dinov2"):
        spelt = DINOV2_MEMORY + DINOV2_FILE if in_memory else DINOV2_FILE + DINOV2_MEMORY
        blocks = DINOV2 + (spelt + DINOV2_MLP if swiglu else DINOV2_MLP + spelt)
    else:
        blocks = VIT_MEMORY + VIT_FILE if in_memory else VIT_FILE + VIT_MEMORY
    inside = [(prefix + theirs, ours) for theirs, ours in (*EMBEDDINGS, *TOKENS[family], *blocks)]
    return [*inside, *(TWO_HEADS if family == "deit_with_teacher" else HEAD)]


def _prefix_of(names: Collection[str]) -> str:
    return next((prefix for prefix in PREFIXES if prefix + "embeddings.cls_token" in names), "")


def _family_of_names(names: Collection[str]) -> str:
    prefix = _prefix_of(names)
    if prefix + "embeddings.distillation_token" in names:
        return "deit_with_teacher" if "distillation_classifier.weight" in names else "deit"
    if prefix + "embeddings.register_tokens" in names:
        return "dinov2_with_registers"
    return "dinov2" if prefix + "encoder.layer.0.layer_scale1.lambda1" in names else "vit"


def _family_of_ours(names: Collection[str]) -> str:
    registers = "reg_token" in names
    if "blocks.0.ls1.gamma" in names:
        return "dinov2_with_registers" if registers else "dinov2"
    if "dist_token" in names:
        return "deit_with_teacher"
    return "deit" if registers else "vit"


def _is_swiglu(ours: Mapping[str, Tensor]) -> bool:
    fc1, fc2 = ours.get("blocks.0.mlp.fc1.weight"), ours.get("blocks.0.mlp.fc2.weight")
    return fc1 is not None and fc2 is not None and fc1.shape[0] == 2 * fc2.shape[1]


def _check_shapes(ours: Mapping[str, Tensor], family: str) -> None:
    """Shapes in which names that fit hide a model that does not."""
    model = CLASSES[family][0]
    if family == "deit" and ours["reg_token"].shape[1] != 1:
        raise ConfigError(
            f"{model} has one distillation token, not {ours['reg_token'].shape[1]} "
            "registers; Dinov2WithRegisters needs init_values too"
        )
    if "head.weight" in ours:
        inputs, dim = ours["head.weight"].shape[1], ours["cls_token"].shape[2]
        wanted = 2 * dim if family.startswith("dinov2") else dim
        if inputs != wanted:
            pool = "token_avg" if wanted > dim else "token"
            raise ConfigError(
                f"the head of {model} has {wanted} inputs, that of these weights "
                f"{inputs}; it needs global_pool={pool}"
            )

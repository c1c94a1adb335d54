"""torchvision's VisionTransformer: its tensor names, its options, and the model itself.

Its `in_proj_weight` has the rows of our `attn.qkv` in the same order. Its layers normalise with
eps 1e-6, its dropout sits where our `pos_drop_rate` and `proj_drop_rate` put theirs, and its
images are normalised with ImageNet's mean and std.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionVisionTransformer

from vitfw.errors import ConfigError
from vitfw.interop.translation import (
    Table,
    Translated,
    check_tokens,
    expressible,
    mlp_ratio_of,
    to_ours,
    to_theirs,
)

PEER = "torchvision's VisionTransformer"
BLOCK = "encoder.layers.encoder_layer_{i}"

TABLE: Table = (
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("conv_proj.{p}", "patch_embed.proj.{p}"),
    (f"{BLOCK}.ln_1.{{p}}", "blocks.{i}.norm1.{p}"),
    (f"{BLOCK}.self_attention.in_proj_{{p}}", "blocks.{i}.attn.qkv.{p}"),
    (f"{BLOCK}.self_attention.out_proj.{{p}}", "blocks.{i}.attn.proj.{p}"),
    (f"{BLOCK}.ln_2.{{p}}", "blocks.{i}.norm2.{p}"),
    (f"{BLOCK}.mlp.0.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
    (f"{BLOCK}.mlp.3.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
    (f"{BLOCK}.mlp.linear_1.{{p}}", "blocks.{i}.mlp.fc1.{p}"),  # files of torchvision < 0.14
    (f"{BLOCK}.mlp.linear_2.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
    ("encoder.ln.{p}", "norm.{p}"),
    ("heads.head.{p}", "head.{p}"),
)

CARRIED = frozenset(
    "img_size patch_size num_classes embed_dim depth num_heads mlp_ratio norm_eps".split()
)

# What the library's class is where nobody gives it another norm_layer; its files say none of it.
IMPLIED: dict[str, Any] = {
    "act_layer": "gelu",
    "norm_layer": "layernorm",
    "norm_eps": 1e-6,
    "rope": "none",
    "qk_scale": None,
}

CONV_STEM = (
    "conv_stem_configs makes a stem of convolutions with batch normalisation and ReLU, and "
    "vitfw has only its own (embed_layer=conv_stem)"
)
PRE_LOGITS = "representation_size puts a tanh layer before the head, and vitfw has none there"


def recognises(names: Collection[str]) -> bool:
    """Are these the tensors of a torchvision VisionTransformer?"""
    blocks = any(name.startswith("encoder.layers.encoder_layer_") for name in names)
    return blocks and "class_token" in names


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    """torchvision's tensors under our names.

    Raises:
        ConfigError: the model has a stem of convolutions, or a layer before the head.
    """
    if any(name.startswith("conv_proj.conv_bn_relu_") for name in state):
        raise ConfigError(f"{PEER}: {CONV_STEM}")
    if "heads.pre_logits.weight" in state:
        raise ConfigError(f"{PEER}: {PRE_LOGITS}")
    return to_ours(TABLE, (), state)


def from_vitfw(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under torchvision's names.

    Raises:
        ConfigError: torchvision has no place for some of them; the message names them.
    """
    check_tokens(state, PEER)
    return to_theirs(TABLE, state, PEER)


def options_of(peer: TorchvisionVisionTransformer) -> dict[str, Any]:
    """The options of our VisionTransformer that build `peer`, a torchvision VisionTransformer.

    Raises:
        ConfigError: `peer` has a part that ours has not.
    """
    if not isinstance(peer, TorchvisionVisionTransformer):
        raise ConfigError(f"{type(peer).__name__} is not {PEER}")
    if not isinstance(peer.conv_proj, nn.Conv2d):
        raise ConfigError(f"{PEER}: {CONV_STEM}")
    if peer.representation_size is not None:
        raise ConfigError(f"{PEER}: {PRE_LOGITS}")
    if not isinstance(peer.encoder.ln, nn.LayerNorm):
        norm = type(peer.encoder.ln).__name__
        raise ConfigError(f"{PEER} with norm_layer {norm}: only LayerNorm can be read")
    return {
        "img_size": peer.image_size,
        "patch_size": peer.patch_size,
        "num_classes": _num_classes(peer.heads),
        "embed_dim": peer.hidden_dim,
        "depth": len(peer.encoder.layers),
        "num_heads": peer.encoder.layers[0].num_heads,
        "mlp_ratio": mlp_ratio_of(peer.mlp_dim, peer.hidden_dim),
        "norm_eps": peer.encoder.ln.eps,
        "pos_drop_rate": peer.dropout,
        "proj_drop_rate": peer.dropout,
        "attn_drop_rate": peer.attention_dropout,
    }


def build_peer(options: Mapping[str, Any]) -> TorchvisionVisionTransformer:
    """A torchvision VisionTransformer, freshly initialised, from the options of ours.

    torchvision has one rate for the dropout after the position embeddings and in the blocks:
    `proj_drop_rate`.

    Raises:
        ConfigError: options that torchvision has not, or takes only square.
    """
    full = expressible(PEER, options, CARRIED)
    peer = TorchvisionVisionTransformer(
        image_size=_side("img_size", full["img_size"]),
        patch_size=_side("patch_size", full["patch_size"]),
        num_layers=full["depth"],
        num_heads=full["num_heads"],
        hidden_dim=full["embed_dim"],
        mlp_dim=int(full["embed_dim"] * full["mlp_ratio"]),
        dropout=full["proj_drop_rate"],
        attention_dropout=full["attn_drop_rate"],
        num_classes=full["num_classes"] or 1,
        norm_layer=partial(nn.LayerNorm, eps=full["norm_eps"]),
    )
    if full["num_classes"] == 0:
        peer.heads = nn.Sequential()
    return peer


def _num_classes(heads: nn.Module) -> int:
    head = getattr(heads, "head", None)
    if isinstance(head, nn.Linear):
        return head.out_features
    if isinstance(heads, nn.Identity) or len(list(heads.children())) == 0:
        return 0
    raise ConfigError(f"{PEER} with heads of its own making; vitfw reads `heads.head`, one linear")


def _side(option: str, size: int | tuple[int, int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ConfigError(f"{PEER} is square; it cannot express {option} {size}")
    return sides.pop()

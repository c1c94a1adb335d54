"""timm's VisionTransformer: its options, and the model itself. Its tensor names are ours.

Eva, timm's other large class of plain ViTs, has a file of its own.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from timm import layers
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models import vision_transformer as theirs
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from vitfw.errors import ConfigError
from vitfw.interop.translation import Translated, expressible, mlp_ratio_of
from vitfw.models.attention import fuse_qkv
from vitfw.models.options import ACT_LAYERS
from vitfw.models.patch_embed import as_pair

PEER = "timm's VisionTransformer"
# Every option of ours that theirs has, under the name it has there.
CARRIED = {
    name: name
    for name in (
        "img_size patch_size in_chans num_classes embed_dim depth num_heads mlp_ratio qkv_bias "
        "qk_norm proj_bias scale_attn_norm scale_mlp_norm drop_rate pos_drop_rate patch_drop_rate "
        "attn_drop_rate proj_drop_rate drop_path_rate init_values class_token reg_tokens "
        "pos_embed no_embed_class pre_norm final_norm fc_norm global_pool dynamic_img_size"
    ).split()
}
BY_LAYER = ("dist_token", "embed_norm", "norm_layer", "norm_eps", "act_layer", "mlp_layer")
BLOCKS = {
    "serial": theirs.Block,
    "parallel": theirs.ParallelScalingBlock,
    "pair": theirs.ParallelThingsBlock,
}
MLPS: dict[str, Any] = {
    "mlp": layers.Mlp,
    "swiglu": layers.SwiGLU,
    "swiglu_packed": layers.SwiGLUPacked,
}
NORMS = {"layernorm": layers.LayerNorm, "rmsnorm": layers.RmsNorm}
NORM_NAMES: dict[type[nn.Module], str] = {
    layers.LayerNorm: "layernorm",
    nn.LayerNorm: "layernorm",
    layers.RmsNorm: "rmsnorm",
    nn.RMSNorm: "rmsnorm",
}
ACT_NAMES = {"SiLU": "silu", "Swish": "silu", "ReLU": "relu", "QuickGELU": "quick_gelu"}
POOLS = ("token", "avg", "map")


def recognises(names: Collection[str]) -> bool:
    """Are these tensors named as timm and we name them?"""
    return "patch_embed.proj.weight" in names and any(n.startswith("blocks.0.") for n in names)


def to_vitfw(state: Mapping[str, Tensor]) -> Translated:
    """The same tensors under the same names."""
    return Translated(dict(state))


def from_vitfw(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors with `qkv` fused, as timm's VisionTransformer has it."""
    return fuse_qkv(state)


def options_of(peer: Any) -> dict[str, Any]:
    """The options of our VisionTransformer that build `peer`, one of timm's models.

    Raises:
        ConfigError: `peer` is another architecture, or has a part that ours has not.
    """
    if type(peer) not in (theirs.VisionTransformer, VisionTransformerDistilled):
        raise ConfigError(f"{type(peer).__name__} is not {PEER}")
    refuse_what_is_missing(peer)
    embed = peer.patch_embed
    return {
        "img_size": as_pair(embed.img_size),
        "patch_size": as_pair(embed.patch_size),
        "in_chans": peer.in_chans,
        "num_classes": peer.num_classes,
        "embed_dim": peer.embed_dim,
        "depth": len(peer.blocks),
        **options_of_block(peer.blocks[0], peer.embed_dim),
        "class_token": peer.cls_token is not None,
        "dist_token": isinstance(peer, VisionTransformerDistilled),
        "reg_tokens": peer.num_reg_tokens,
        "pos_embed": "none" if peer.pos_embed is None else "learn",
        "no_embed_class": peer.no_embed_class,
        "pre_norm": not isinstance(peer.norm_pre, nn.Identity),
        **options_of_norms(peer),
        "global_pool": peer.global_pool,
        "embed_norm": not isinstance(embed.norm, nn.Identity),
        "dynamic_img_size": peer.dynamic_img_size,
        "drop_rate": peer.head_drop.p,
        "pos_drop_rate": peer.pos_drop.p,
        "patch_drop_rate": getattr(peer.patch_drop, "prob", 0.0),
        "drop_path_rate": drop_path_of(peer.blocks[-1]),
    }


def refuse_what_is_missing(peer: Any) -> None:
    """Raises ConfigError where `peer` has a part that no option of ours builds."""
    block, embed = peer.blocks[0], peer.patch_embed
    if not any(type(block) is known for known in BLOCKS.values()):
        raise ConfigError(f"vitfw has no block like timm's {type(block).__name__}")
    attention = attention_of(block)
    if type(attention) not in (layers.Attention, theirs.ParallelScalingBlock):
        raise ConfigError(f"vitfw has no attention like timm's {type(attention).__name__}")
    if type(embed) is not layers.PatchEmbed:
        raise ConfigError(f"vitfw has no patch embedding like timm's {type(embed).__name__}")
    if getattr(block, "out_proj", None) is not None:
        raise ConfigError("the attention and the MLP share one output projection")
    if peer.global_pool not in POOLS:
        raise ConfigError(f"vitfw has no pooling like timm's {peer.global_pool!r}")
    if peer.pool_include_prefix:
        raise ConfigError("the pooling takes in the prefix tokens, which vitfw's leaves out")
    pool: Any = peer.attn_pool
    if pool is not None and type(pool) is not AttentionPoolLatent:
        raise ConfigError(f"vitfw has no pooling like timm's {type(pool).__name__}")
    if pool is not None and act_of(getattr(pool.mlp, "act", None)) != act_of_blocks(peer):
        raise ConfigError("the attention pooling has another activation than the blocks")
    embed_norm = type(embed.norm)
    if embed_norm is not nn.Identity and NORM_NAMES.get(embed_norm) != norm_of(peer)[0]:
        raise ConfigError(f"the patch embedding's {embed_norm.__name__} is not the blocks' norm")


def options_of_block(block: Any, dim: int) -> dict[str, Any]:
    attention, mlp = attention_of(block), mlp_of(block)
    name = next(name for name, known in BLOCKS.items() if type(block) is known)
    scale = getattr(block, "ls1", getattr(block, "ls", nn.Identity()))
    if name == "pair":
        scale = block.attns[0].ls
    qkv = block.in_proj if name == "parallel" else attention.qkv
    proj = block.attn_out_proj if name == "parallel" else attention.proj
    options = {
        "block_layer": name,
        "num_heads": attention.num_heads,
        "qkv_bias": qkv.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "proj_bias": proj.bias is not None,
        "init_values": initial_scale(scale),
        "attn_drop_rate": attention.attn_drop.p,
    }
    if name == "parallel":
        hidden = block.in_split[0]
        options |= {"act_layer": act_of(block.mlp_act), "proj_drop_rate": block.mlp_drop.p}
    else:
        hidden, kind = hidden_of(mlp)
        options |= {
            "mlp_layer": kind,
            "act_layer": "gelu" if kind != "mlp" else act_of(mlp.act),
            "scale_attn_norm": not isinstance(attention.norm, nn.Identity),
            "scale_mlp_norm": not isinstance(mlp.norm, nn.Identity),
            "proj_drop_rate": mlp.drop1.p,
        }
    return options | {"mlp_ratio": mlp_ratio_of(hidden, dim)}


def initial_scale(scale: Any) -> float | None:
    return None if isinstance(scale, nn.Identity) else scale.init_values


def attention_of(block: Any) -> Any:
    if isinstance(block, theirs.ParallelThingsBlock):
        return block.attns[0].attn
    return getattr(block, "attn", block)


def mlp_of(block: Any) -> Any:
    if isinstance(block, theirs.ParallelThingsBlock):
        return block.ffns[0].mlp
    return getattr(block, "mlp", None)


def hidden_of(mlp: Any) -> tuple[int, str]:
    """The hidden channels that `mlp_ratio` counts, and our name of the layer."""
    kind = type(mlp)
    if kind is layers.Mlp:
        return mlp.fc1.out_features, "mlp"
    if kind is not layers.SwiGLU and not (kind is layers.GluMlp and not mlp.gate_last):
        raise ConfigError(f"vitfw has no MLP like timm's {kind.__name__}")
    if act_of(mlp.act) != "silu":
        raise ConfigError(f"the gate of the MLP is {type(mlp.act).__name__}, not SiLU")
    if kind is layers.SwiGLU:
        return mlp.fc1_g.out_features, "swiglu"
    return mlp.fc1.out_features, "swiglu_packed"


def act_of(act: nn.Module | None) -> str:
    kind = type(act).__name__
    if "GELUTanh" in kind or getattr(act, "approximate", "none") == "tanh":
        return "gelu_tanh"
    name = "gelu" if kind == "GELU" else ACT_NAMES.get(kind, "")
    if name not in ACT_LAYERS:
        raise ConfigError(f"vitfw has no activation like timm's {kind}")
    return name


def act_of_blocks(peer: Any) -> str:
    """Our `act_layer`; with gated blocks, whose gate has its own, the pooling's is GELU."""
    mlp = mlp_of(peer.blocks[0])
    if mlp is None:
        return act_of(peer.blocks[0].mlp_act)
    return "gelu" if hidden_of(mlp)[1] != "mlp" else act_of(mlp.act)


def norm_of(peer: Any) -> tuple[str, float]:
    """The kind of norm in the blocks, and its eps."""
    block = peer.blocks[0]
    norm = getattr(block, "norm1", getattr(block, "in_norm", None))
    if norm is None:
        norm = block.attns[0].norm
    if type(norm) not in NORM_NAMES:
        raise ConfigError(f"vitfw has no norm like timm's {type(norm).__name__}")
    return NORM_NAMES[type(norm)], norm.eps


def options_of_norms(peer: Any) -> dict[str, Any]:
    before, after = (not isinstance(norm, nn.Identity) for norm in (peer.norm, peer.fc_norm))
    kind, eps = norm_of(peer)
    return {
        "norm_layer": kind,
        "norm_eps": eps,
        "final_norm": before or after,
        "fc_norm": after if before or after else None,
    }


def drop_path_of(block: nn.Module) -> float:
    rates = [m.drop_prob for m in block.modules() if isinstance(m, layers.DropPath)]
    return max(rates, default=0.0)


def build_peer(options: Mapping[str, Any]) -> nn.Module:
    """A timm VisionTransformer, freshly initialised, from the options of ours.

    Raises:
        ConfigError: options that timm's VisionTransformer has not.
    """
    peer_class, arguments = arguments_of(options)
    return peer_class(**arguments)


def arguments_of(options: Mapping[str, Any]) -> tuple[type[nn.Module], dict[str, Any]]:
    """timm's class, and the arguments that build the model which `options` describe.

    Raises:
        ConfigError: options that timm's VisionTransformer has not.
    """
    carried = {*CARRIED, *BY_LAYER, "block_layer", "embed_layer"}
    full = expressible(PEER, options, carried)
    for option, known in (("global_pool", POOLS), ("embed_layer", ("conv", "conv_rearrange"))):
        if full[option] not in known:
            raise ConfigError(f"{PEER} cannot express {option}={full[option]}")
    if full["mlp_layer"] != "mlp" and full["global_pool"] == "map":
        raise ConfigError(
            f"{PEER} has SiLU in the pooling, too, with mlp_layer={full['mlp_layer']}"
        )
    arguments = {theirs_name: full[name] for name, theirs_name in CARRIED.items()}
    if full["pos_embed"] == "sincos2d":
        arguments["pos_embed"] = "learn"  # timm holds the same fixed table as a parameter
    norm = partial(NORMS[full["norm_layer"]], eps=full["norm_eps"])
    arguments |= {
        "norm_layer": norm,
        "embed_norm_layer": norm if full["embed_norm"] else None,
        "act_layer": ACT_LAYERS[full["act_layer"]],
        "mlp_layer": MLPS[full["mlp_layer"]],
        "block_fn": BLOCKS[full["block_layer"]],
    }
    if full["mlp_layer"] != "mlp":
        arguments["act_layer"] = nn.SiLU
    return (
        VisionTransformerDistilled if full["dist_token"] else theirs.VisionTransformer
    ), arguments

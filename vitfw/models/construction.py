"""From the options of a VisionTransformer to its blocks; and whether the options fit each other."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn

from vitfw.models.attention import Attention
from vitfw.models.block import Block, Mlp, SwiGLU, SwiGLUPacked
from vitfw.models.conv_stem import ConvStem, PoolStem
from vitfw.models.initialisation import SCHEMES
from vitfw.models.options import (
    ACT_LAYERS,
    NORM_LAYERS,
    Layer,
    check_choice,
    check_rates,
    check_sizes,
    check_together,
)
from vitfw.models.parallel import PairBlock, ParallelBlock
from vitfw.models.patch_embed import (
    ConvRearrangeEmbed,
    LinearPatchEmbed,
    PatchEmbed,
    TokenEmbed,
    as_pair,
)
from vitfw.models.rotary import TEMPERATURES, RotaryEmbedding

EMBED_LAYERS: dict[str, Callable[..., TokenEmbed]] = {
    "conv": PatchEmbed,
    "conv_rearrange": ConvRearrangeEmbed,
    "linear": LinearPatchEmbed,
    "conv_stem": ConvStem,
    "pool_stem": PoolStem,
}
MLP_LAYERS: dict[str, Layer] = {"mlp": Mlp, "swiglu": SwiGLU, "swiglu_packed": SwiGLUPacked}
BLOCK_LAYERS: dict[str, Layer] = {"serial": Block, "parallel": ParallelBlock, "pair": PairBlock}
CHOICES = {
    "embed_layer": EMBED_LAYERS,
    "norm_layer": NORM_LAYERS,
    "act_layer": ACT_LAYERS,
    "mlp_layer": MLP_LAYERS,
    "block_layer": BLOCK_LAYERS,
    "pos_embed": ("learn", "sincos2d", "none"),
    "rope": ("none", *TEMPERATURES),
    "global_pool": ("token", "avg", "token_avg", "map", "seq"),
    "weight_init": SCHEMES,
}
RATES = (
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "attn_drop_rate",
    "proj_drop_rate",
    "drop_path_rate",
)
OF_ROPE = {  # option of the model → argument of RotaryEmbedding
    "rope_temperature": "temperature",
    "rope_ref_grid": "ref_grid",
    "rope_grid_offset": "grid_offset",
    "rope_indexing": "indexing",
    "rope_rotate_half": "rotate_half",
    "rope_shift_coords": "shift_coords",
    "rope_jitter_coords": "jitter_coords",
    "rope_rescale_coords": "rescale_coords",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Whether the options of a VisionTransformer are known, in range, and fit each other.

    Raises:
        ValueError: names the option, and what would fit.
    """
    o = SimpleNamespace(**options)
    for option, choices in CHOICES.items():
        check_choice(option, options[option], choices)
    check_sizes(1, embed_dim=o.embed_dim, depth=o.depth, num_heads=o.num_heads, in_chans=o.in_chans)
    check_sizes(0, num_classes=o.num_classes, reg_tokens=o.reg_tokens, tome_r=o.tome_r)
    check_rates(**{name: options[name] for name in RATES})
    gated = o.mlp_layer != "mlp"
    serial = o.block_layer == "serial"
    check_together(
        init_values=(
            o.init_values is not None and not is_above_0(o.init_values),
            f"{o.init_values} must be above 0, such as 1e-4; null leaves LayerScale out",
        ),
        qk_scale=(
            o.qk_scale is not None and not is_above_0(o.qk_scale),
            f"{o.qk_scale} must be above 0; null takes head_dim ** -0.5",
        ),
        fc_norm=(
            o.fc_norm is not None and not o.final_norm,
            f"{o.fc_norm} says where the final norm is, and final_norm=false leaves it out",
        ),
        norm_eps=(not o.norm_eps > 0, f"{o.norm_eps} must be above 0; usual: 1e-6"),
        mlp_ratio=(
            not 1 <= o.embed_dim * o.mlp_ratio < float("inf"),
            f"{o.mlp_ratio} leaves the MLP no hidden channel; usual: 4.0",
        ),
        global_pool=(
            o.global_pool in ("token", "token_avg") and not o.class_token,
            f"{o.global_pool} needs class_token=true; or set global_pool=avg",
        ),
        stem_layers=(
            o.stem_layers is not None and o.embed_layer != "conv_stem",
            f"are the convolutions of embed_layer=conv_stem, and it is {o.embed_layer}",
        ),
        dist_token=(
            o.dist_token and not (o.class_token and o.global_pool == "token"),
            "needs class_token=true and global_pool=token, whose head it is a twin of",
        ),
        mlp_layer=(
            gated and o.act_layer not in ("gelu", "silu"),  # gelu is the default
            f"{o.mlp_layer} has a SiLU gate; leave act_layer={o.act_layer} out",
        ),
        swiglu_align_to=(
            o.swiglu_align_to < 0 or (o.swiglu_align_to > 0 and o.mlp_layer != "swiglu"),
            f"{o.swiglu_align_to} rounds the hidden channels of mlp_layer=swiglu up; else 0",
        ),
        block_layer=(
            o.block_layer == "parallel"
            and (gated or o.scale_attn_norm or o.scale_mlp_norm or not (o.k_bias and o.fused_qkv)),
            "parallel has mlp_layer=mlp and fused_qkv=true with k_bias=true, and no "
            "scale_attn_norm or scale_mlp_norm; or set block_layer=serial",
        ),
        drop_path_subset=(
            o.drop_path_subset and not serial,
            f"is for block_layer=serial, not {o.block_layer}",
        ),
        tome_r=(
            o.tome_r > 0 and (not serial or o.rope != "none"),
            "merges tokens in block_layer=serial with rope=none: a merged token has no place",
        ),
    )
    check_rope(options)
    check_flexi(o)


def is_above_0(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def check_rope(options: Mapping[str, Any]) -> None:
    usual = {"rope_grid_offset": 0.0, "rope_indexing": "ij"}
    for option in OF_ROPE:
        value = options[option]
        if options["rope"] == "none" and value is not None and value != usual.get(option):
            raise ValueError(
                f"{option} {value} does nothing while rope is none; set rope=axial, dinov3 or mixed"
            )


def check_flexi(o: SimpleNamespace) -> None:
    sizes = o.flexi_patch_sizes
    if sizes is None:
        return
    if isinstance(sizes, (int, str)) or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"flexi_patch_sizes {sizes} must be a list of patch sizes: [8, 16, 32]")
    if o.embed_layer not in ("conv", "conv_rearrange"):
        raise ValueError(
            f"flexi_patch_sizes resizes the kernel of embed_layer=conv, not {o.embed_layer}"
        )
    if o.patch_stride is not None and as_pair(o.patch_stride) != as_pair(o.patch_size):
        raise ValueError(
            f"flexi_patch_sizes do not overlap as patch_stride={o.patch_stride} asks; leave one out"
        )
    if o.dynamic_img_size:
        raise ValueError(
            "flexi_patch_sizes are for images of one size, whose grid they change; leave "
            "dynamic_img_size=true out"
        )
    height, width = as_pair(o.img_size, "img_size")
    for size in sizes:
        if size < 1 or height % size or width % size:
            side = math.gcd(height, width)
            fitting = ", ".join(str(p) for p in range(2, side + 1) if side % p == 0)
            raise ValueError(
                f"flexi_patch_sizes {size} does not divide img_size {o.img_size}; sizes that do: "
                f"{fitting}"
            )


def make_blocks(options: Mapping[str, Any]) -> nn.Sequential:
    """The `depth` blocks; the rate of stochastic depth rises linearly from 0."""
    o = SimpleNamespace(**options)
    norm = partial(NORM_LAYERS[o.norm_layer], eps=o.norm_eps)
    act = ACT_LAYERS[o.act_layer]
    attention: dict[str, Any] = {
        "num_heads": o.num_heads,
        "qkv_bias": o.qkv_bias,
        "qk_scale": o.qk_scale,
        "qk_norm": o.qk_norm,
        "proj_bias": o.proj_bias,
        "attn_drop": o.attn_drop_rate,
        "proj_drop": o.proj_drop_rate,
        "norm_layer": norm,
    }
    make: Layer = BLOCK_LAYERS[o.block_layer]
    if o.block_layer == "parallel":
        make = partial(make, **attention, act_layer=act)
    else:
        mlp: dict[str, Any] = {"drop": o.proj_drop_rate, "bias": o.proj_bias}
        mlp["norm_layer"] = norm if o.scale_mlp_norm else None
        if o.mlp_layer == "mlp":
            mlp["act_layer"] = act
        if o.mlp_layer == "swiglu":
            mlp["align_to"] = o.swiglu_align_to
        attention |= {"k_bias": o.k_bias, "fused_qkv": o.fused_qkv, "scale_norm": o.scale_attn_norm}
        make = partial(
            make,
            attn_layer=partial(Attention, **attention),
            mlp_layer=partial(MLP_LAYERS[o.mlp_layer], **mlp),
            norm_layer=norm,
        )
        if o.drop_path_subset:
            make = partial(make, drop_path_subset=True)
    rates = [o.drop_path_rate * i / max(o.depth - 1, 1) for i in range(o.depth)]
    mlp_dim = int(o.embed_dim * o.mlp_ratio)
    return nn.Sequential(
        *[make(o.embed_dim, mlp_dim, init_values=o.init_values, drop_path=r) for r in rates]
    )


def make_rope(options: Mapping[str, Any], num_prefix: int) -> RotaryEmbedding | None:
    o = SimpleNamespace(**options)
    if o.rope == "none":
        return None
    more = {argument: options[option] for option, argument in OF_ROPE.items()}
    if more["ref_grid"] is not None:
        more["ref_grid"] = as_pair(more["ref_grid"], "rope_ref_grid")
    head_dim = o.embed_dim // o.num_heads
    return RotaryEmbedding(o.rope, head_dim, o.num_heads, o.depth, num_prefix=num_prefix, **more)

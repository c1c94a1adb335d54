"""timm's hub format: a folder with the weights, and a config.json that names an architecture.

An architecture is a function of timm's with arguments; JSON holds them all but the layers. So the
one named is any that brings the layers, and every other argument is given. Null is not among them,
as timm takes it for an argument left out.

Source: timm.models._hub, timm.models._factory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitfw.checkpoint import Passport
from vitfw.errors import ConfigError
from vitfw.interop import eva
from vitfw.interop import timm as timm_vit
from vitfw.interop.translation import expressible, mlp_ratio_of
from vitfw.models.patch_embed import as_pair, grid_of
from vitfw.models.rotary import TEMPERATURES

SAME = (
    "img_size patch_size in_chans num_classes embed_dim depth num_heads mlp_ratio qkv_bias qk_norm "
    "drop_rate pos_drop_rate patch_drop_rate attn_drop_rate proj_drop_rate drop_path_rate "
    "class_token no_embed_class global_pool dynamic_img_size"
).split()
# What Eva has under the same name, and under another.
EVA_NAMES = {
    **{name: name for name in SAME},
    "reg_tokens": "num_reg_tokens",
    "scale_attn_norm": "scale_attn_inner",
    "scale_mlp_norm": "scale_mlp",
    "pre_norm": "use_pre_transformer_norm",
    "rope_grid_offset": "rope_grid_offset",
    "rope_indexing": "rope_grid_indexing",
    "rope_shift_coords": "rope_shift_coords",
    "rope_jitter_coords": "rope_jitter_coords",
    "rope_rescale_coords": "rope_rescale_coords",
}
EVA_MORE = (
    "init_values pos_embed final_norm fc_norm mlp_layer swiglu_align_to norm_eps rope "
    "rope_temperature rope_ref_grid rope_rotate_half"
).split()
EVA_ROPES = {"axial": "cat", "dinov3": "dinov3", "mixed": "mixed"}
# What timm says of the published weights of the architecture; these are not they.
OF_OTHERS = "url hf_hub_id tag license description origin_url paper_name paper_ids notes".split()


def save(peer: nn.Module, passport: Passport, path: Path) -> None:
    """Write a net that timm's `create_model` made, with class names and how images are prepared.

    Raises:
        ConfigError: timm did not make it.
    """
    from timm.models import save_for_hf

    if not getattr(peer, "pretrained_cfg", None):
        raise ConfigError(
            f"format=timm is for nets that timm can build, which a {type(peer).__name__} is not"
        )
    save_for_hf(
        peer,
        str(path),
        model_config={"label_names": passport.classes},
        safe_serialization=True,
        data_config={
            "input_size": (passport.channels, *passport.img_size),
            "mean": tuple(passport.mean),
            "std": tuple(passport.std),
            "crop_pct": passport.crop_share,
            "crop_mode": "center",
            "interpolation": "bicubic",
        },
    )


def peer_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The net of our VisionTransformer that has these options and weights, as timm builds it.

    Raises:
        ConfigError: timm has no architecture for some option; the message names it.
    """
    import timm

    with_rope = options["rope"] != "none"
    name, arguments = eva_of(options) if with_rope else vision_transformer_of(options)
    given = {key: value for key, value in arguments.items() if value is not None}
    peer: Any = timm.create_model(name, **given)
    peer.load_state_dict(eva.from_vitfw(state) if with_rope else dict(state))
    about = peer.pretrained_cfg.items()
    peer.pretrained_cfg = {key: value for key, value in about if key not in OF_OTHERS}
    return peer


def vision_transformer_of(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's VisionTransformer, and all its arguments.

    Raises:
        ConfigError: there is none with these layers.
    """
    _, arguments = timm_vit.arguments_of(options)
    kind, eps, mlp = options["norm_layer"], options["norm_eps"], options["mlp_layer"]
    if mlp != "mlp" and options["global_pool"] == "map" and options["act_layer"] != "silu":
        raise cannot("global_pool", "map", f"with mlp_layer={mlp}")  # one activation for both
    layers = {"act_layer": options["act_layer"] if mlp == "mlp" else "silu", "norm_layer": kind}
    layers["embed_norm_layer"] = kind if options["embed_norm"] else ""
    name = bringing_layers(options)
    if eps == 1e-5 and (name, kind) in OTHER_EPS:  # the architecture's own norm, not to be named
        name = OTHER_EPS[name, kind]
        layers.pop("norm_layer")
        if options["embed_norm"] and "aimv2" not in name:
            raise cannot("norm_eps", eps, "beside embed_norm=true")
        if options["embed_norm"]:
            layers.pop("embed_norm_layer")
    elif eps != 1e-6:
        raise cannot("norm_eps", eps, f"with norm_layer={kind}, mlp_layer={mlp}")
    for layer in ("norm_layer", "embed_norm_layer", "act_layer", "mlp_layer", "block_fn"):
        arguments.pop(layer)
    if options["fc_norm"] is None:
        arguments["fc_norm"] = options["global_pool"] == "avg"
    arguments["init_values"] = options["init_values"] or 0.0
    if options["block_layer"] == "parallel" and not options["init_values"]:
        arguments["init_values"] = None
    return name, arguments | layers


OTHER_EPS = {  # architectures whose norm has eps 1e-5
    ("vit_base_patch16_224", "layernorm"): "vit_base_patch16_clip_224",
    ("aimv2_large_patch14_224", "rmsnorm"): "aimv2_large_patch14_224",
}


def bringing_layers(options: Mapping[str, Any]) -> str:
    """An architecture with the block and the MLP of ours."""
    block, mlp = options["block_layer"], options["mlp_layer"]
    if options["dist_token"]:
        for option, plain in (("block_layer", "serial"), ("mlp_layer", "mlp"), ("reg_tokens", 0)):
            if options[option] != plain:
                raise cannot(option, options[option], "beside dist_token=true")
        if options["pos_embed"] == "none":
            raise cannot("pos_embed", "none", "beside dist_token=true")
        for option in ("no_embed_class", "fc_norm"):
            if options[option]:
                raise cannot(option, "true", "beside dist_token=true")
        return "deit_base_distilled_patch16_224"
    if block == "parallel":
        return "vit_base_patch16_xp_224"
    if block == "pair":
        if mlp != "mlp":
            raise cannot("mlp_layer", mlp, "beside block_layer=pair")
        return "vit_base_patch16_18x2_224"
    return {
        "mlp": "vit_base_patch16_224",
        "swiglu_packed": "vit_giant_patch14_dinov2",
        "swiglu": "aimv2_large_patch14_224",
    }[mlp]


def cannot(option: str, value: Any, where: str) -> ConfigError:
    return ConfigError(f"no architecture of timm's has {option}={value} {where}")


def eva_of(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's Eva, and all its arguments.

    Raises:
        ConfigError: there is none for some option.
    """
    carried = {*EVA_NAMES, *EVA_MORE}
    full = expressible("timm's Eva", options, carried)
    if full["global_pool"] not in timm_vit.POOLS:
        raise cannot("global_pool", full["global_pool"], f"with rope={full['rope']}")
    if full["global_pool"] == "map" and (full["class_token"] or full["reg_tokens"]):
        raise cannot("global_pool", "map", "that leaves the prefix tokens out, with rope")
    name = "eva02_base_patch14_224"
    if full["norm_eps"] == 1e-5 and full["init_values"]:
        name = "vit_base_patch16_dinov3"
    elif full["norm_eps"] != 1e-6:
        raise cannot("norm_eps", full["norm_eps"], f"with rope={full['rope']}")
    after = full["global_pool"] == "avg" if full["fc_norm"] is None else full["fc_norm"]
    packed, gated = full["mlp_layer"] == "swiglu_packed", full["mlp_layer"] != "mlp"
    if packed and full["scale_mlp_norm"]:
        raise cannot("scale_mlp_norm", "true", "with mlp_layer=swiglu_packed; swiglu has it")
    arguments = {theirs: full[ours] for ours, theirs in EVA_NAMES.items()}
    if packed:  # counted in halves
        hidden = int(full["embed_dim"] * full["mlp_ratio"])
        arguments["mlp_ratio"] = mlp_ratio_of(hidden // 2, full["embed_dim"])
    arguments |= {
        "attn_type": "rope",
        "qkv_fused": True,
        "init_values": full["init_values"] or None,
        "swiglu_mlp": gated,
        "attn_pool_mlp_ratio": full["mlp_ratio"],
        # 1 aligns nothing, and makes Eva keep gate and value apart
        "swiglu_align_to": (full["swiglu_align_to"] or 1) if full["mlp_layer"] == "swiglu" else 0,
        "use_abs_pos_emb": full["pos_embed"] != "none",
        "use_rot_pos_emb": True,
        "use_post_transformer_norm": full["final_norm"] and not after,
        "use_fc_norm": full["final_norm"] and after,
        **rope_of(full),
    }
    return name, arguments


def rope_of(full: Mapping[str, Any]) -> dict[str, Any]:
    kind, half = full["rope"], full["rope_rotate_half"]
    grid = grid_of(as_pair(full["img_size"]), as_pair(full["patch_size"]))
    return {
        "rope_type": EVA_ROPES[kind],
        "rope_temperature": full["rope_temperature"] or TEMPERATURES[kind],
        "rope_rotate_half": kind == "dinov3" if half is None else half,
        # The model's own grid scales nothing; the architecture named would put in another.
        "ref_feat_shape": as_pair(full["rope_ref_grid"] or grid),
    }

"""Hugging Face's configs of ViT, DeiT and DINOv2 as options of our VisionTransformer, and back.

A config is read as transformers holds it or as `config.json` has it, so that reading needs no
transformers. Two rates of training have no exact counterpart and are carried as they are: theirs
has no dropout between the MLP's layers, and their `drop_path_rate` is the same in all blocks.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vitfw.errors import ConfigError
from vitfw.interop.translation import expressible, mlp_ratio_of

# family → (class with a head, class without)
CLASSES: dict[str, tuple[str, str | None]] = {
    "vit": ("ViTForImageClassification", "ViTModel"),
    "deit": ("DeiTForImageClassification", "DeiTModel"),
    "deit_with_teacher": ("DeiTForImageClassificationWithTeacher", None),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Model"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersModel",
    ),
}

# What a config.json may leave out.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
    "num_register_tokens": 4,
    "num_labels": 2,
}
DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "vit": {},
    "deit": {},
    "dinov2": {"layer_norm_eps": 1e-6, "patch_size": 14},
    "dinov2_with_registers": {"layer_norm_eps": 1e-6},
}

# Their names of activations; the first with a given name of ours is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}

CARRIED = frozenset(
    "img_size patch_size in_chans num_classes embed_dim depth num_heads mlp_ratio qkv_bias "
    "norm_eps act_layer".split()
)
CARRIED_BY: dict[str, frozenset[str]] = {
    "vit": CARRIED,
    "deit": CARRIED | {"reg_tokens"},
    "deit_with_teacher": CARRIED | {"dist_token"},
    "dinov2": CARRIED | {"init_values", "mlp_layer", "global_pool"},
    "dinov2_with_registers": CARRIED | {"init_values", "mlp_layer", "global_pool", "reg_tokens"},
}


def options_of(peer: Any) -> dict[str, Any]:
    """The options of our VisionTransformer that build the model of `peer`.

    `peer` is a transformers config, a transformers model, or the content of a `config.json`. A
    config that names no architecture is taken for the one that classifies images.

    Raises:
        ConfigError: a model that is none of the five families, or a part that ours has not.
    """
    config = _config_of(peer)
    family, has_head = _family_of(config)
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get("head_dim", dim // heads) != dim // heads:
        raise ConfigError(f"head_dim {config['head_dim']} is not {dim} / {heads}; ours always is")
    options = {
        "img_size": _size(config["image_size"]),
        "patch_size": _size(config["patch_size"]),
        "in_chans": config["num_channels"],
        "num_classes": _num_labels(config) if has_head else 0,
        "embed_dim": dim,
        "depth": config["num_hidden_layers"],
        "num_heads": heads,
        "qkv_bias": config["qkv_bias"],
        "norm_eps": config["layer_norm_eps"],
        "pos_drop_rate": config["hidden_dropout_prob"],
        "attn_drop_rate": config["attention_probs_dropout_prob"],
    }
    if not family.startswith("dinov2"):
        options["mlp_ratio"] = mlp_ratio_of(config["intermediate_size"], dim)
        options["act_layer"] = _activation(config["hidden_act"])
        options["proj_drop_rate"] = config["hidden_dropout_prob"]
        if family == "deit":
            options["reg_tokens"] = 1
        return options | ({"dist_token": True} if family == "deit_with_teacher" else {})
    options["init_values"] = config["layerscale_value"] or 1.0  # 0 would leave ours without
    options["drop_path_rate"] = config["drop_path_rate"]
    if config["use_swiglu_ffn"]:
        options["mlp_layer"] = "swiglu_packed"
        options["mlp_ratio"] = mlp_ratio_of(2 * _swiglu_width(dim, config["mlp_ratio"]), dim)
    else:
        options["mlp_ratio"] = config["mlp_ratio"]
        options["act_layer"] = _activation(config["hidden_act"])
    if family == "dinov2_with_registers":
        options["reg_tokens"] = config["num_register_tokens"]
    return options | ({"global_pool": "token_avg"} if has_head else {})


def build_peer(options: Mapping[str, Any]) -> nn.Module:
    """A transformers model, freshly initialised, from the options of our VisionTransformer.

    Raises:
        ConfigError: options that no family of Hugging Face has, or transformers is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "writing a Hugging Face model needs transformers: pip install 'vitfw[huggingface]'"
        ) from error

    family = _family_of_options(options)
    with_head, without = CLASSES[family]
    full = expressible(with_head, options, CARRIED_BY[family])
    if full["num_classes"] == 0 and without is None:
        raise ConfigError(f"{with_head} needs classes; num_classes=0 with dist_token has no peer")
    has_head = full["num_classes"] > 0 or full["global_pool"] == "token_avg"
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == full["act_layer"])
    config: dict[str, Any] = {
        "image_size": full["img_size"],
        "patch_size": full["patch_size"],
        "num_channels": full["in_chans"],
        "num_labels": full["num_classes"],
        "hidden_size": full["embed_dim"],
        "num_hidden_layers": full["depth"],
        "num_attention_heads": full["num_heads"],
        "qkv_bias": full["qkv_bias"],
        "layer_norm_eps": full["norm_eps"],
        "hidden_act": activation,
        "hidden_dropout_prob": full["pos_drop_rate"],
        "attention_probs_dropout_prob": full["attn_drop_rate"],
    }
    if family.startswith("dinov2"):
        wanted = "token_avg" if full["num_classes"] else full["global_pool"]
        if full["global_pool"] != wanted or wanted not in ("token", "token_avg"):
            raise ConfigError(
                f"{with_head} classifies [class token, mean of patches]; it cannot express "
                f"global_pool={full['global_pool']}, only token_avg"
            )
        if full["mlp_layer"] == "swiglu":
            raise ConfigError(f"{with_head} has no mlp_layer=swiglu; its twin is swiglu_packed")
        config["layerscale_value"] = full["init_values"]
        config["drop_path_rate"] = full["drop_path_rate"]
        config["use_swiglu_ffn"] = full["mlp_layer"] == "swiglu_packed"
        config["mlp_ratio"] = _whole_mlp_ratio(with_head, full)
        if family == "dinov2_with_registers":
            config["num_register_tokens"] = full["reg_tokens"]
    else:
        config["intermediate_size"] = int(full["embed_dim"] * full["mlp_ratio"])
    peer_class = getattr(transformers, name := with_head if has_head else str(without))
    # A pooler would be a layer without weights of ours.
    no_pooler = {"add_pooling_layer": False} if name in ("ViTModel", "DeiTModel") else {}
    return peer_class(peer_class.config_class(**config), **no_pooler)


def _config_of(peer: Any) -> dict[str, Any]:
    """A flat config with defaults filled in; that of a model names the model's class."""
    named: dict[str, Any] = {}
    if not isinstance(peer, Mapping) and hasattr(peer, "config"):
        named, peer = {"architectures": [type(peer).__name__]}, peer.config
    given = dict(peer if isinstance(peer, Mapping) else peer.to_dict())
    model_type = given.get("model_type")
    if model_type not in DEFAULTS_OF:
        raise ConfigError(f"model_type {model_type!r} is not one of: {', '.join(DEFAULTS_OF)}")
    return DEFAULTS | DEFAULTS_OF[model_type] | given | named


def _family_of(config: Mapping[str, Any]) -> tuple[str, bool]:
    """The family, and whether the model has a head."""
    architecture = (config.get("architectures") or [CLASSES[config["model_type"]][0]])[0]
    for family, (with_head, without) in CLASSES.items():
        if architecture in (with_head, without):
            return family, architecture == with_head
    known = [name for pair in CLASSES.values() for name in pair if name]
    raise ConfigError(f"architecture {architecture} is not one of: {', '.join(known)}")


def _family_of_options(options: Mapping[str, Any]) -> str:
    registers = options.get("reg_tokens", 0)
    if options.get("init_values"):
        return "dinov2_with_registers" if registers else "dinov2"
    if options.get("dist_token"):
        return "deit_with_teacher"
    if registers > 1:
        raise ConfigError(
            f"Hugging Face has {registers} registers only with LayerScale, in Dinov2WithRegisters; "
            "DeiT has one token beside the class token"
        )
    return "deit" if registers else "vit"


def _num_labels(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    return config["num_labels"] if labels is None else len(labels)


def _size(size: Any) -> int | tuple[int, int]:
    """A side, or [height, width], also where both are equal."""
    return size if isinstance(size, int) else (int(size[0]), int(size[1]))


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act {name!r} is not one of: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _swiglu_width(dim: int, mlp_ratio: float) -> int:
    """The width of each half: two thirds of the MLP's, rounded up to a multiple of 8."""
    return -(-int(int(dim * mlp_ratio) * 2 / 3) // 8) * 8


def _whole_mlp_ratio(model: str, full: Mapping[str, Any]) -> int:
    """The whole number that DINOv2's config has for the width of our MLP."""
    dim = full["embed_dim"]
    hidden = int(dim * full["mlp_ratio"])
    swiglu = full["mlp_layer"] == "swiglu_packed"
    for ratio in range(1, 17):
        if hidden == (2 * _swiglu_width(dim, ratio) if swiglu else dim * ratio):
            return ratio
    raise ConfigError(
        f"{model} has a whole mlp_ratio from which {hidden} hidden channels do not follow"
    )

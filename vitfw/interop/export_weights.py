"""Weights in other people's formats, with what is needed to build the model and feed it."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vitfw.building import build
from vitfw.checkpoint import Passport, load_weights
from vitfw.errors import ConfigError
from vitfw.interop import huggingface, npz, timm_hub, torchvision
from vitfw.interop import timm as timm_vit
from vitfw.interop.agreement import Logits
from vitfw.interop.translation import expressible
from vitfw.models.attention import fuse_qkv
from vitfw.models.patch_embed import linear_to_kernel
from vitfw.models.vit import VisionTransformer

SIDES = ("height", "width")
TORCHVISION_NAMES = {
    "image_size": "img_size",
    "patch_size": "patch_size",
    "num_layers": "depth",
    "num_heads": "num_heads",
    "hidden_dim": "embed_dim",
}
NPZ = "Google's .npz format"
GELUS = ("gelu", "gelu_tanh")  # its readers take the one or the other for granted
# What Google's arrays tell by their shapes, or by not being there.
TOLD_BY_NPZ = frozenset(
    "img_size patch_size in_chans num_classes embed_dim depth num_heads mlp_ratio class_token "
    "global_pool act_layer fc_norm".split()
)


def plain(net: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and weights of the same function with one `qkv` and a convolution for patches.

    A key without a bias gets one of zeros. These spellings of ours have no other library's.
    """
    assert isinstance(net, VisionTransformer)
    options, state = dict(net.options), fuse_qkv(net.state_dict())
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        query, stem = state.pop(name), name.removesuffix("q_bias")
        value = state.pop(f"{stem}v_bias")
        state[f"{stem}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    options |= {"fused_qkv": True, "k_bias": True}
    if options["embed_layer"] == "linear":
        weight = state["patch_embed.proj.weight"]
        state["patch_embed.proj.weight"] = linear_to_kernel(weight, options["patch_size"])
        options["embed_layer"] = "conv"
    if options["patch_stride"] == options["patch_size"]:
        options["patch_stride"] = None
    return options, {name: tensor.contiguous() for name, tensor in state.items()}


# ── safetensors ───────────────────────────────────────────────────────────────────────────────


def write_safetensors(net: nn.Module, passport: Passport, path: Path) -> None:
    """Our state dict; the metadata has the model's config and how images are prepared, as JSON."""
    said = {
        "model": passport.config["model"],
        "classes": passport.classes,
        "channels": passport.channels,
        "img_size": passport.img_size,
        "crop_share": passport.crop_share,
        "mean": passport.mean,
        "std": passport.std,
        "versions": passport.versions,
    }
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}
    # Clones, as safetensors refuses to write tensors that share their storage.
    tensors = {name: tensor.clone().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, path, {"format": "pt", **metadata})


def read_safetensors(net: nn.Module, passport: Passport, path: Path) -> Logits:
    with safe_open(path, framework="pt") as file:
        model = json.loads(file.metadata()["model"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rebuilt = build(model)
    load_weights(rebuilt, tensors, str(path))
    return rebuilt.double().eval()


# ── timm ──────────────────────────────────────────────────────────────────────────────────────


def write_timm(net: nn.Module, passport: Passport, path: Path) -> None:
    if isinstance(net, VisionTransformer):
        options, state = plain(net)
        timm_hub.save(timm_hub.peer_of(options, state), passport, path)
    else:
        timm_hub.save(net, passport, path)


def read_timm(net: nn.Module, passport: Passport, path: Path) -> Logits:
    import timm

    return timm.create_model(f"local-dir:{path}", pretrained=True).double().eval()


# ── torchvision ───────────────────────────────────────────────────────────────────────────────


def write_torchvision(net: nn.Module, passport: Passport, path: Path) -> None:
    options, state = plain(net)
    torchvision.build_peer(options)  # refuses what it cannot express
    torch.save(torchvision.from_vitfw(state), path)


def read_torchvision(net: nn.Module, passport: Passport, path: Path) -> Logits:
    peer = torchvision.build_peer(plain(net)[0])
    peer.load_state_dict(torch.load(path, weights_only=True))
    return peer.double().eval()


def torchvision_usage(net: nn.Module, path: Path) -> str:
    options, _ = plain(net)
    given: dict[str, Any] = {}
    for theirs, ours in TORCHVISION_NAMES.items():
        value = options[ours]
        given[theirs] = value if isinstance(value, int) else value[0]
    given["mlp_dim"] = int(options["embed_dim"] * options["mlp_ratio"])
    given["num_classes"] = options["num_classes"]
    words = [f"{name}={value}" for name, value in given.items()]
    if options["norm_eps"] != 1e-6:
        words.append(f"norm_layer=partial(torch.nn.LayerNorm, eps={options['norm_eps']})")
    arguments = textwrap.fill(
        ", ".join(words), 72, initial_indent=" " * 4, subsequent_indent=" " * 4
    )
    return (
        f"net = torchvision.models.VisionTransformer(\n{arguments}\n)\n"
        f"net.load_state_dict(torch.load('{path}'))"
    )


# ── Hugging Face ──────────────────────────────────────────────────────────────────────────────


def write_huggingface(net: nn.Module, passport: Passport, path: Path) -> None:
    """What `save_pretrained` writes, and the image processor.

    Raises:
        ConfigError: no model of Hugging Face computes this, or transformers is missing.
    """
    options, state = plain(net)
    peer = huggingface.build_peer(options)
    huggingface.load_peer(peer, state)
    config: Any = peer.config
    config.id2label = dict(enumerate(passport.classes))
    config.label2id = {name: label for label, name in enumerate(passport.classes)}
    save: Any = peer.save_pretrained
    with without_bars():
        save(path)
    height, width = passport.img_size
    cover = [round(side / passport.crop_share) for side in (height, width)]
    square = height == width
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": passport.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": cover[0]} if square else dict(zip(SIDES, cover, strict=True)),
        "resample": 3,  # PIL's bicubic
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": passport.mean,
        "image_std": passport.std,
    }
    text = json.dumps(processor, indent=2) + "\n"
    (path / "preprocessor_config.json").write_text(text, encoding="utf-8")


def read_huggingface(net: nn.Module, passport: Passport, path: Path) -> Logits:
    import transformers

    with without_bars():
        peer = transformers.AutoModelForImageClassification.from_pretrained(path)
    transformers.AutoImageProcessor.from_pretrained(path)
    peer = peer.double().eval()
    return lambda images: peer(images).logits


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars and remarks."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


# ── Google's .npz ─────────────────────────────────────────────────────────────────────────────


def write_npz(net: nn.Module, passport: Passport, path: Path) -> None:
    options, state = plain(net)
    expressible(NPZ, options, TOLD_BY_NPZ)
    for option, known in (("act_layer", GELUS), ("global_pool", ("token", "avg", "map"))):
        if options[option] not in known:
            raise ConfigError(f"{NPZ} cannot express {option}={options[option]}")
    npz.write_npz(path, state, options["num_heads"])


def read_npz(net: nn.Module, passport: Passport, path: Path) -> Logits:
    """Through timm's reader."""
    peer: Any = timm_vit.build_peer(plain(net)[0])
    peer.load_pretrained(path)
    return peer.double().eval()

"""Hugging Face's ViT, DeiT and DINOv2 read, computed and written back, against transformers."""

import builtins
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from vitfw.errors import ConfigError
from vitfw.interop import huggingface as interop
from vitfw.models.vit import VisionTransformer

COMMON = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 5,
}
PLAIN = COMMON | {"intermediate_size": 40}
CONFIGS = {
    "vit": ("ViTForImageClassification", "ViTConfig", PLAIN),
    "vit_without_bias": ("ViTForImageClassification", "ViTConfig", PLAIN | {"qkv_bias": False}),
    "vit_wide": ("ViTForImageClassification", "ViTConfig", PLAIN | {"image_size": [16, 24]}),
    "vit_base": ("ViTModel", "ViTConfig", PLAIN),
    "deit": ("DeiTForImageClassification", "DeiTConfig", PLAIN),
    "deit_base": ("DeiTModel", "DeiTConfig", PLAIN),
    "deit_with_teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", PLAIN),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", COMMON),
    "dinov2_base": ("Dinov2Model", "Dinov2Config", COMMON),
    "dinov2_swiglu": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        COMMON | {"use_swiglu_ffn": True},
    ),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        COMMON | {"num_register_tokens": 3},
    ),
    "dinov2_with_registers_swiglu": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        COMMON | {"use_swiglu_ffn": True},
    ),
}
every_kind = pytest.mark.parametrize("kind", CONFIGS)


def small_peer(kind: str, **options) -> nn.Module:
    """A small model in float64, every parameter moved off its initialisation."""
    name, config_name, config = CONFIGS[kind]
    peer = getattr(transformers, name)(getattr(transformers, config_name)(**config | options))
    for parameter in peer.double().eval().parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return peer


def twin_of(peer: nn.Module) -> VisionTransformer:
    ours = VisionTransformer(**interop.options_of(peer)).double().eval()
    ours.load_state_dict(interop.to_vitfw(peer.state_dict()).state)
    return ours


def images_for(peer: nn.Module) -> torch.Tensor:
    size = peer.config.image_size
    sides = (size, size) if isinstance(size, int) else size
    return torch.randn(2, 3, *sides, dtype=torch.float64)


def output_of(peer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    result = peer(x)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state[:, 0]


def written_by(peer: nn.Module, folder) -> dict[str, torch.Tensor]:
    peer.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@every_kind
def test_logits_equal_transformers(kind):
    peer = small_peer(kind)
    x = images_for(peer)
    torch.testing.assert_close(twin_of(peer)(x), output_of(peer, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("act", ["gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu"])
def test_activations_equal_transformers(act):
    peer = small_peer("vit", hidden_act=act, layer_norm_eps=1e-3)
    x = images_for(peer)
    torch.testing.assert_close(twin_of(peer)(x), output_of(peer, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kind", ["vit", "deit_with_teacher", "dinov2_swiglu", "dinov2_with_registers"]
)
def test_gradients_equal_transformers(kind):
    peer = small_peer(kind)
    ours, x = twin_of(peer), images_for(peer)
    ours(x).square().sum().backward()
    output_of(peer, x).square().sum().backward()
    grads = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    theirs = interop.to_vitfw(grads).state
    for name, parameter in ours.named_parameters():
        mine = parameter.grad
        if name == "pos_embed" and kind == "dinov2_with_registers":
            mine, theirs[name] = mine[:, [0, *range(4, 20)]], theirs[name][:, [0, *range(4, 20)]]
        torch.testing.assert_close(mine, theirs[name], rtol=1e-8, atol=1e-8)


@every_kind
def test_file_and_memory_give_the_same_tensors(kind, tmp_path):
    peer = small_peer(kind)
    file = written_by(peer, tmp_path)
    assert file.keys() != peer.state_dict().keys()
    assert_same(interop.to_vitfw(file).state, interop.to_vitfw(peer.state_dict()).state)


@every_kind
def test_round_trips_are_bit_identical(kind, tmp_path):
    peer = small_peer(kind)
    memory, file = peer.state_dict(), written_by(peer, tmp_path)
    read = interop.to_vitfw(file)
    kept = {name: tensor for name, tensor in file.items() if name not in read.ignored}
    assert_same(interop.from_vitfw(read.state), kept)
    read = interop.to_vitfw(memory)
    kept = {name: tensor for name, tensor in memory.items() if name not in read.ignored}
    assert_same(interop.from_vitfw(read.state, like=list(memory)), kept)


@every_kind
def test_every_tensor_is_translated_or_ignored_with_a_reason(kind):
    translated = interop.to_vitfw(small_peer(kind).state_dict())
    assert not translated.unknown
    assert all("pooler" in name or "mask_token" in name for name in translated.ignored)
    assert all(len(reason) > 20 for reason in translated.ignored.values())


@every_kind
def test_config_json_is_read_without_transformers(kind, tmp_path, monkeypatch):
    peer = small_peer(kind)
    peer.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = [type(peer).__name__]
    _without_transformers(monkeypatch)
    assert interop.options_of(config) == interop.options_of(peer)


def test_what_config_json_leaves_out_is_transformers_default():
    for name in ("ViT", "DeiT", "Dinov2", "Dinov2WithRegisters"):
        config = getattr(transformers, f"{name}Config")()
        assert interop.options_of({"model_type": config.model_type}) == interop.options_of(config)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "vit_base"])
def test_our_weights_compute_the_same_in_a_saved_and_reloaded_model(kind, tmp_path):
    options = interop.options_of(small_peer(kind))
    ours = VisionTransformer(**options).double().eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    peer = interop.build_peer(options).double()
    interop.load_peer(peer, ours.state_dict())
    peer.save_pretrained(tmp_path)
    again = type(peer).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert interop.options_of(again) == options
    x = images_for(again)
    torch.testing.assert_close(output_of(again, x), ours(x), rtol=0, atol=1e-9)


def test_a_file_written_without_the_model_loads_in_transformers(tmp_path):
    peer = small_peer("dinov2_swiglu")
    ours = twin_of(peer)
    peer.config.save_pretrained(tmp_path)
    written = interop.from_vitfw(ours.state_dict())
    save_file(written, tmp_path / "model.safetensors", {"format": "pt"})
    again = type(peer).from_pretrained(tmp_path, dtype=torch.float64).eval()
    x = images_for(peer)
    torch.testing.assert_close(output_of(again, x), ours(x), rtol=0, atol=1e-9)


def test_separate_queries_keys_and_values_are_written_too():
    options = interop.options_of(small_peer("vit"))
    fused = VisionTransformer(**options)
    split = VisionTransformer(**options, fused_qkv=False)
    assert interop.from_vitfw(split.state_dict()).keys() == (
        interop.from_vitfw(fused.state_dict()).keys()
    )


def test_dinov2_giant_has_our_shapes():
    giant = {"hidden_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 24}
    giant |= {"image_size": 518, "use_swiglu_ffn": True}
    with torch.device("meta"):
        peer = transformers.Dinov2Model(transformers.Dinov2Config(**giant))
        ours = VisionTransformer(**interop.options_of(peer))
    read = interop.to_vitfw(peer.state_dict()).state
    assert {n: t.shape for n, t in read.items()} == {
        n: t.shape for n, t in ours.state_dict().items()
    }


def test_recognises_both_spellings_and_nothing_else(tmp_path):
    peer = small_peer("deit")
    assert interop.recognises(peer.state_dict())
    assert interop.recognises(written_by(peer, tmp_path))
    assert not interop.recognises(twin_of(peer).state_dict())


def test_unknown_tensors_and_incomplete_projections_are_listed():
    state = dict(small_peer("vit").state_dict())
    del state["vit.layers.0.attention.k_proj.bias"]
    state["decoder.0.weight"] = torch.zeros(1)
    assert sorted(interop.to_vitfw(state).unknown) == [
        "decoder.0.weight",
        "vit.layers.0.attention.q_proj.bias",
        "vit.layers.0.attention.v_proj.bias",
    ]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "swin"}, "swin"),
        ({}, "model_type"),
        ({"model_type": "vit", "hidden_act": "mish"}, "mish"),
        ({"model_type": "vit", "architectures": ["ViTForMaskedImageModeling"]}, "MaskedImage"),
        ({"model_type": "vit", "head_dim": 128}, "head_dim"),
    ],
)
def test_configs_that_ours_cannot_express_are_refused_by_name(config, named):
    with pytest.raises(ConfigError, match=named):
        interop.options_of(config)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reg_tokens": 2}, "2 registers"),
        ({"global_pool": "avg"}, "global_pool=avg"),
        ({"init_values": 0.1}, "token_avg"),
        ({"init_values": 0.1, "global_pool": "token_avg", "mlp_ratio": 1.7}, "whole mlp_ratio"),
        ({"init_values": 0.1, "global_pool": "token_avg", "mlp_layer": "swiglu"}, "swiglu_packed"),
        ({"no_embed_class": True}, "no_embed_class"),
        ({"dist_token": True, "num_classes": 0}, "num_classes=0"),
    ],
)
def test_options_that_hugging_face_has_not_are_refused_by_name(options, named):
    with pytest.raises(ConfigError, match=named):
        interop.build_peer(options)


def test_weights_that_hugging_face_has_no_place_for_are_named():
    tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 1}
    with pytest.raises(ConfigError, match=r"blocks\.\*\.attn\.q_norm\.weight"):
        interop.from_vitfw(VisionTransformer(**tiny, qk_norm=True).state_dict())
    with pytest.raises(ConfigError, match="2 registers"):
        interop.from_vitfw(VisionTransformer(**tiny, reg_tokens=2).state_dict())
    with pytest.raises(ConfigError, match="token_avg"):
        interop.from_vitfw(VisionTransformer(**tiny, init_values=0.1).state_dict())


def test_missing_transformers_names_the_command(monkeypatch):
    _without_transformers(monkeypatch)
    with pytest.raises(ConfigError, match=r"pip install 'vitfw\[huggingface\]'"):
        interop.build_peer({})


def _without_transformers(monkeypatch) -> None:
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("missing", ["cls_token", "pos_embed"])
def test_weights_without_class_token_or_positions_are_refused(missing):
    state = dict(twin_of(small_peer("dinov2_with_registers")).state_dict())
    del state[missing]
    with pytest.raises(ConfigError, match=f"needs {missing}"):
        interop.from_vitfw(state)

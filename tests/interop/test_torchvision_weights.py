"""torchvision's ViTs read, computed and written back, against torchvision itself."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import vision_transformer as tv
from torchvision.models.vision_transformer import ConvStemConfig
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVisionTransformer

from vitfw.errors import ConfigError
from vitfw.interop import torchvision as interop
from vitfw.models.vit import VisionTransformer

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 24,
    "mlp_dim": 40,
    "num_classes": 5,
}


def small_peer(**options) -> TorchvisionVisionTransformer:
    """A small torchvision ViT in float64, every parameter moved off its initialisation."""
    peer = TorchvisionVisionTransformer(**SMALL | options).double().eval()
    for parameter in peer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return peer


def twin_of(peer: TorchvisionVisionTransformer) -> VisionTransformer:
    ours = VisionTransformer(**interop.options_of(peer)).double().eval()
    translated = interop.to_vitfw(peer.state_dict())
    assert not translated.unknown and not translated.ignored
    ours.load_state_dict(translated.state)
    return ours


FIVE = ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIVE)
def test_the_five_models_of_torchvision_give_the_same_logits_at_full_size(name):
    peer = getattr(tv, name)().double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        x = torch.randn(1, 3, peer.image_size, peer.image_size, dtype=torch.float64)
        torch.testing.assert_close(twin_of(peer)(x), peer(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FIVE)
def test_every_published_model_has_our_tensors_and_shapes(name):
    with torch.device("meta"):
        peer = getattr(tv, name)()
        ours = VisionTransformer(**interop.options_of(peer))
    translated = interop.to_vitfw(peer.state_dict())
    assert not translated.unknown and not translated.ignored
    wanted = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert {name: tensor.shape for name, tensor in translated.state.items()} == wanted
    back = interop.from_vitfw(ours.state_dict())
    assert {n: t.shape for n, t in back.items()} == {
        n: t.shape for n, t in peer.state_dict().items()
    }


def test_logits_equal_torchvisions():
    peer, x = small_peer(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(twin_of(peer)(x), peer(x), rtol=0, atol=1e-10)


def test_gradients_equal_torchvisions():
    peer, x = small_peer(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    ours = twin_of(peer)
    for model in (peer, ours):
        model(x).square().sum().backward()
    theirs = interop.to_vitfw({name: p.grad for name, p in peer.named_parameters()}).state
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-9, atol=1e-9)


def test_norm_eps_is_read_and_matters():
    peer = small_peer(norm_layer=partial(nn.LayerNorm, eps=1e-2))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(twin_of(peer)(x), peer(x), rtol=0, atol=1e-10)
    plain = VisionTransformer(**interop.options_of(peer) | {"norm_eps": 1e-6}).double().eval()
    plain.load_state_dict(interop.to_vitfw(peer.state_dict()).state)
    assert (plain(x) - peer(x)).abs().max() > 1e-4


def test_round_trip_is_bit_identical():
    state = small_peer().state_dict()
    back = interop.from_vitfw(interop.to_vitfw(state).state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_files_of_older_torchvision_are_read():
    state = small_peer().state_dict()
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in state.items()
    }
    assert old.keys() != state.keys()
    new, read = interop.to_vitfw(state), interop.to_vitfw(old)
    assert not read.unknown
    assert all(torch.equal(new.state[name], read.state[name]) for name in new.state)


def test_dropout_rates_are_read_and_written():
    options = interop.options_of(small_peer(dropout=0.1, attention_dropout=0.2))
    assert (options["pos_drop_rate"], options["proj_drop_rate"]) == (0.1, 0.1)
    assert options["attn_drop_rate"] == 0.2
    assert interop.options_of(interop.build_peer(options)) == options


@pytest.mark.parametrize("num_classes", [5, 0])
@pytest.mark.parametrize("fused_qkv", [True, False])
def test_our_weights_compute_the_same_in_a_torchvision_model(num_classes, fused_qkv):
    options = {"img_size": (16, 16), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    options |= {"num_classes": num_classes, "mlp_ratio": 1.7, "fused_qkv": fused_qkv}
    ours = VisionTransformer(**options).double().eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    peer = interop.build_peer(options).double().eval()
    peer.load_state_dict(interop.from_vitfw(ours.state_dict()))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(peer(x), ours(x), rtol=0, atol=1e-10)
    assert interop.options_of(peer)["num_classes"] == num_classes


def test_recognises_its_own_tensors_only():
    peer = small_peer()
    assert interop.recognises(peer.state_dict())
    assert not interop.recognises(twin_of(peer).state_dict())


def test_unknown_tensors_are_listed():
    state = small_peer().state_dict() | {"surplus": torch.zeros(1)}
    assert interop.to_vitfw(state).unknown == ["surplus"]


def test_a_stem_of_convolutions_is_refused():
    stem = [ConvStemConfig(8, 3, 2), ConvStemConfig(12, 3, 2)]
    peer = small_peer(conv_stem_configs=stem)
    with pytest.raises(ConfigError, match="conv_stem_configs"):
        interop.options_of(peer)
    with pytest.raises(ConfigError, match="conv_stem_configs"):
        interop.to_vitfw(peer.state_dict())


def test_a_layer_before_the_head_is_refused():
    peer = small_peer(representation_size=8)
    with pytest.raises(ConfigError, match="representation_size"):
        interop.options_of(peer)
    with pytest.raises(ConfigError, match="representation_size"):
        interop.to_vitfw(peer.state_dict())


def test_tensors_without_a_place_are_named_once():
    tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 2}
    ours = VisionTransformer(**tiny, init_values=0.1, reg_tokens=2)
    with pytest.raises(ConfigError, match=r"reg_token.*blocks\.\*\.ls1\.gamma") as error:
        interop.from_vitfw(ours.state_dict())
    assert str(error.value).count("ls1.gamma") == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reg_tokens": 2}, "reg_tokens=2"),
        ({"global_pool": "avg"}, "global_pool=avg"),
        ({"act_layer": "quick_gelu"}, "act_layer=quick_gelu"),
        ({"rope": "axial"}, "rope=axial"),
        ({"pos_embed": "none"}, "pos_embed=none"),
        ({"img_size": (32, 16)}, "img_size"),
        ({"embed_dims": 12}, "embed_dim"),
    ],
)
def test_what_torchvision_cannot_express_is_refused_by_name(options, named):
    with pytest.raises(ConfigError, match=named):
        interop.build_peer(options)


@pytest.mark.parametrize("missing", ["cls_token", "pos_embed"])
def test_weights_without_class_token_or_positions_are_refused(missing):
    state = dict(twin_of(small_peer()).state_dict())
    del state[missing]
    with pytest.raises(ConfigError, match=f"needs {missing}"):
        interop.from_vitfw(state)

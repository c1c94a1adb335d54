"""Checkpoints as DeiT's, MAE's, DINO's and DINOv2's authors wrote them, against timm's reading."""

import re

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from vitfw.errors import ConfigError
from vitfw.interop.original import recognises, to_vitfw
from vitfw.interop.wrapping import unwrap, wrapping_of
from vitfw.models.vit import VisionTransformer

SMALL = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}
HEADLESS = {**SMALL, "num_classes": 0}


def random_timm(model: type[nn.Module] | str = TimmVisionTransformer, **options) -> nn.Module:
    theirs = timm.create_model(model, **options) if isinstance(model, str) else model(**options)
    for parameter in theirs.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return theirs.double().eval()


def assert_same(left, right):
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def tensors_of(content) -> dict:
    return unwrap(content)[0]


def assert_same_logits(theirs: nn.Module, tensors, **options):
    """A model of ours with these options and tensors computes what `theirs` does."""
    translated = to_vitfw(tensors)
    assert not translated.unknown
    ours = VisionTransformer(**{**SMALL, **options}).double().eval()
    ours.load_state_dict(translated.state, strict=True)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        logits = theirs(images)
        assert logits.std() > 0.01
        torch.testing.assert_close(ours(images), logits, rtol=0, atol=1e-9)


# ── one family after the other ────────────────────────────────────────────────────────────────


def test_deit_has_our_names_below_model():
    theirs = random_timm(**SMALL)
    tensors = tensors_of({"model": theirs.state_dict()})
    assert_same(to_vitfw(tensors).state, theirs.state_dict())
    assert_same_logits(theirs, tensors)


def test_distilled_deit_keeps_its_second_token_and_head():
    theirs = random_timm("deit_tiny_distilled_patch16_224", **SMALL)
    tensors = tensors_of({"model": theirs.state_dict()})
    assert {"dist_token", "head_dist.weight"} <= set(tensors)
    assert_same_logits(theirs, tensors, dist_token=True)


def test_deit_iii_has_another_name_for_layer_scale():
    theirs = random_timm("deit3_small_patch16_224", **SMALL)
    content = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    assert "blocks.1.gamma_2" in content
    read = checkpoint_filter_fn(dict(content), theirs, adapt_layer_scale=True)
    assert_same(to_vitfw(content).state, read)
    assert_same_logits(theirs, content, no_embed_class=True, init_values=1e-5)


def test_maes_decoder_is_ignored_with_a_reason():
    theirs = random_timm(**HEADLESS)
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_embed.weight": torch.zeros(8, 24),
        "decoder_blocks.0.attn.qkv.weight": torch.zeros(24, 8),
        "decoder_pred.bias": torch.zeros(48),
    }
    translated = to_vitfw({**theirs.state_dict(), **decoder})
    assert_same(translated.state, theirs.state_dict())
    assert set(translated.ignored) == set(decoder) and all(translated.ignored.values())
    assert_same_logits(theirs, {**theirs.state_dict(), **decoder}, num_classes=0)


def test_fine_tuned_mae_averages_and_then_normalises():
    theirs = random_timm(**SMALL, global_pool="avg")
    assert_same_logits(theirs, theirs.state_dict(), global_pool="avg")


@pytest.mark.parametrize("prefix, above", [("module.backbone.", "module."), ("backbone.", "")])
def test_dino_gives_the_teachers_backbone_without_its_projection(prefix, above):
    teacher, student = random_timm(**HEADLESS), random_timm(**HEADLESS)
    projection = {
        f"{above}head.mlp.0.weight": torch.zeros(8, 24),
        f"{above}head.last_layer.weight_g": torch.zeros(4, 1),
    }
    content = {
        part: {**{prefix + name: t for name, t in model.state_dict().items()}, **projection}
        for part, model in (("student", student), ("teacher", teacher))
    }
    content |= {"epoch": 100, "optimizer": {"state": {}}}
    translated = to_vitfw(tensors_of(content))
    assert_same(translated.state, teacher.state_dict())
    assert set(translated.ignored) == set(projection)
    del content["teacher"]
    assert_same(to_vitfw(tensors_of(content)).state, student.state_dict())


def dinov2(theirs: nn.Module, chunked=False, packed=False, registers=0) -> dict:
    """The tensors of a timm DINOv2 without registers under its authors' names."""
    content = {"mask_token": torch.zeros(1, 24)}
    if registers:
        content["register_tokens"] = torch.randn(1, registers, 24, dtype=torch.float64)
    for name, tensor in theirs.state_dict().items():
        if packed:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        if chunked:
            name = name.replace("blocks.", "blocks.0.", 1)
        content[name] = tensor
    return content


@pytest.mark.parametrize("chunked", [False, True], ids=["blocks", "blocks in chunks"])
def test_dinov2_small(chunked):
    theirs = random_timm("vit_small_patch14_dinov2", **HEADLESS)
    content = dinov2(theirs, chunked)
    assert recognises(content)
    assert set(to_vitfw(content).ignored) == {"mask_token"}
    assert_same(to_vitfw(content).state, theirs.state_dict())
    assert_same_logits(theirs, content, num_classes=0, init_values=1e-5)


def test_dinov2_giants_gated_mlp_keeps_its_order():
    theirs = random_timm("vit_giant_patch14_dinov2", **HEADLESS)
    content = dinov2(theirs, packed=True)
    assert "blocks.0.mlp.w12.weight" in content
    assert_same(to_vitfw(content).state, checkpoint_filter_fn(dict(content), theirs))
    gated = {"mlp_layer": "swiglu_packed", "mlp_ratio": 2.66667 * 2}
    assert_same_logits(theirs, content, num_classes=0, init_values=1e-5, **gated)


def test_dinov2_registers_have_zeros_for_positions_and_compute_what_timm_does():
    content = dinov2(random_timm("vit_small_patch14_dinov2", **HEADLESS), registers=4)
    theirs = random_timm("vit_small_patch14_reg4_dinov2", **HEADLESS)
    theirs.load_state_dict(checkpoint_filter_fn(dict(content), theirs))
    positions = to_vitfw(content).state["pos_embed"]  # [1, 1 + 4 + 16, 24]
    assert positions.shape == (1, 21, 24) and not positions[:, 1:5].any()
    assert torch.equal(positions[:, [0, *range(5, 21)]], content["pos_embed"])
    assert_same_logits(theirs, content, num_classes=0, init_values=1e-5, reg_tokens=4)


def test_dinov2_linear_head_reads_class_token_and_mean_of_patches():
    backbone = random_timm("vit_small_patch14_dinov2", **HEADLESS)
    head = nn.Linear(48, 5).double()

    class Classifier(nn.Module):
        def forward(self, images):
            x = backbone.forward_features(images)
            return head(torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1))

    content = {f"backbone.{name}": tensor for name, tensor in dinov2(backbone).items()}
    content |= {f"linear_head.{name}": tensor for name, tensor in head.state_dict().items()}
    assert_same_logits(Classifier(), content, global_pool="token_avg", init_values=1e-5)


# ── wrappings and prefixes ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        [],
        ["model"],
        ["module"],
        ["state_dict"],
        ["teacher"],
        ["student"],
        ["model_ema"],
        ["state_dict_ema"],
        ["state_dict", "model"],
    ],
    ids="/".join,
)
@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "backbone.", "encoder."])
def test_the_tensors_are_found_in_every_wrapping(path, prefix):
    state = random_timm(**SMALL).state_dict()
    content = {prefix + name: tensor for name, tensor in state.items()}
    for key in reversed(path):
        content = {key: content, "epoch": 3, "args": {"lr": 0.1}}
    assert wrapping_of(content) == path
    assert recognises(tensors_of(content))
    translated = to_vitfw(tensors_of(content))
    assert_same(translated.state, state)
    assert not translated.ignored and not translated.unknown


def test_averaged_weights_come_before_raw_ones():
    raw, mean = {"x": torch.zeros(1)}, {"x": torch.ones(1)}
    assert wrapping_of({"model": raw, "model_ema": mean}) == ["model_ema"]
    assert wrapping_of({"state_dict": raw, "state_dict_ema": mean}) == ["state_dict_ema"]
    assert wrapping_of({"student": raw, "teacher": mean}) == ["teacher"]
    (note,) = unwrap({"model": raw, "epoch": 3, "model_ema": mean})[1]
    assert note == "read 'model_ema' and not 'model'"
    assert unwrap({"model": raw, "epoch": 3})[1] == []


def test_a_lone_tensor_beside_a_wrapping_does_not_hide_it():
    state, best = {"x": torch.zeros(1), "y": torch.zeros(2)}, torch.tensor(0.8)
    for key in ("state_dict", "model", "net", "encoder", "anything"):
        found, notes = unwrap({key: state, "best_acc1": best, "args": {"lr": 0.1}, "epoch": 3})
        assert set(found) == {"x", "y"}
        said = [] if key in ("state_dict", "model") else [f"read {key!r}, the only part with"]
        assert [note[: len(text)] for note, text in zip(notes, said, strict=True)] == said


def test_tensors_at_the_top_are_not_hidden_by_a_smaller_part():
    state = {"x": torch.zeros(1), "y": torch.zeros(2), "state_of_x": {"amax": torch.ones(1)}}
    assert set(unwrap(state)[0]) == {"x", "y"}


def test_several_parts_of_unknown_names_are_refused_by_name():
    part = {"x": torch.zeros(1)}
    with pytest.raises(ConfigError, match=r"several sets of weights \(encoder, decoder\)"):
        unwrap({"encoder": part, "decoder": part})


def test_a_checkpoint_without_weights_is_refused():
    with pytest.raises(ConfigError, match="holds no weights; its keys: epoch"):
        unwrap({"epoch": 3})
    circle = {"epoch": 3}
    circle["model"] = circle
    with pytest.raises(ConfigError, match="holds no weights; its keys: epoch, model"):
        unwrap(circle)


def test_two_names_for_one_tensor_of_ours_are_both_named():
    state = random_timm(**SMALL).state_dict()
    chunked = {
        re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.0.", name): tensor for name, tensor in state.items()
    }
    assert "blocks.1.0.attn.qkv.weight" in chunked
    unknown = to_vitfw(chunked).unknown
    assert {"blocks.0.0.attn.qkv.weight", "blocks.1.0.attn.qkv.weight"} <= set(unknown)
    scales = {f"blocks.0.{name}": torch.ones(24) for name in ("gamma_1", "ls1.gamma")}
    assert sorted(to_vitfw({**state, **scales}).unknown) == sorted(scales)
    below = {f"backbone.{name}": tensor for name, tensor in state.items()}
    heads = {"linear_head.weight": torch.ones(5, 48), "backbone.head.weight": torch.ones(5, 24)}
    translated = to_vitfw({**below, **heads})
    assert sorted(translated.unknown) == sorted(heads)
    assert "head.weight" not in translated.state


def test_register_tokens_of_a_wrong_shape_are_left_to_be_refused_by_name():
    content = dinov2(random_timm("vit_small_patch14_dinov2", **HEADLESS), registers=4)
    for name, shape in (
        ("register_tokens", ()),
        ("register_tokens", (4, 24)),
        ("register_tokens", (1, 4, 23)),
        ("pos_embed", (24,)),
        ("pos_embed", (17, 24)),
    ):
        state = to_vitfw({**content, name: torch.zeros(shape)}).state
        assert state[{"register_tokens": "reg_token"}.get(name, name)].shape == shape


def test_tensors_beside_and_within_the_model_are_named_and_none_is_lost():
    state = random_timm(**SMALL).state_dict()
    content = {f"model.{name}": tensor for name, tensor in state.items()}
    content |= {"criterion.weight": torch.zeros(5), "head.weight": torch.zeros(2, 24)}
    content["model.blocks.0.attn.relative_position_bias_table"] = torch.zeros(49, 3)
    translated = to_vitfw(content)
    assert_same(translated.state, state)
    assert set(translated.unknown) == {
        "criterion.weight",
        "head.weight",
        "model.blocks.0.attn.relative_position_bias_table",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"reg_tokens": 2, "pre_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
        {"k_bias": False, "qk_norm": True, "rope": "mixed", "num_heads": 2},
        {"fused_qkv": False, "mlp_layer": "swiglu", "init_values": 0.1},
        {"global_pool": "map"},
        {"block_layer": "pair", "init_values": 0.1},
        {"block_layer": "parallel", "qk_norm": True},
        {"embed_norm": True, "dist_token": True},
    ],
    ids=str,
)
def test_every_tensor_of_ours_keeps_its_name_below_a_prefix(options):
    state = VisionTransformer(**{**SMALL, **options}).state_dict()
    translated = to_vitfw({f"net.{name}": tensor for name, tensor in state.items()})
    assert not translated.unknown and not translated.ignored
    assert_same(translated.state, state)


def test_two_models_in_one_file_are_refused_by_name():
    state = random_timm(**SMALL).state_dict()
    content = {f"{part}.{name}": t for part in ("model", "ema") for name, t in state.items()}
    with pytest.raises(ConfigError, match=r"several models.*model\., ema\."):
        to_vitfw(content)


def test_other_architectures_are_not_recognised():
    for name in ("swin_tiny_patch4_window7_224", "resnet18", "beit_base_patch16_224"):
        with torch.device("meta"):
            names = timm.create_model(name).state_dict()
        assert not recognises(names) or to_vitfw(names).unknown

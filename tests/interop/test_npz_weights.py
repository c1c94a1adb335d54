"""Google's .npz files: timm's own reader must find in ours what we put there."""

import contextlib
import io
import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import _load_weights
from torch import nn

from vitfw.errors import ConfigError
from vitfw.interop.npz import (
    from_vitfw,
    options_of,
    read_npz,
    recognises,
    to_vitfw,
    write_npz,
)
from vitfw.models.vit import VisionTransformer

HEADS = 3
SMALL = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": HEADS,
}
KINDS = {
    "class token": {},
    "map": {"class_token": False, "global_pool": "map"},
    "average": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "no head": {"num_classes": 0},
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def random_timm(**options) -> nn.Module:
    model = TimmVisionTransformer(**{**SMALL, **options})
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model


def assert_same(left, right):
    assert list(left) == list(right) or set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
        assert tensor.dtype == right[name].dtype


def big_vision(flax: dict, stacked: bool, root: str) -> dict:
    """The same weights as big_vision spells them."""
    renamed = {}
    for name, array in flax.items():
        name = name.replace("Transformer/posembed_input/pos_embedding", "pos_embedding")
        if "encoderblock_" in name:
            name = name.replace("DotProductAttention_1", "DotProductAttention_0")
            name = name.replace("MlpBlock_3", "MlpBlock_0").replace("LayerNorm_2", "LayerNorm_1")
        renamed[root + name] = array
    if not stacked:
        return renamed
    firsts = [name for name in renamed if "encoderblock_0/" in name]
    for first in firsts:
        blocks = [renamed.pop(first.replace("_0/", f"_{i}/", 1)) for i in range(SMALL["depth"])]
        renamed[first.replace("encoderblock_0", "encoderblock")] = torch.stack(blocks)
    return renamed


# ── timm ──────────────────────────────────────────────────────────────────────────────────────


@each_kind
def test_timms_reader_finds_every_tensor_that_we_wrote(kind, tmp_path):
    written, read = random_timm(**kind), random_timm(**kind)
    write_npz(tmp_path / "vit.npz", written.state_dict(), HEADS)
    with torch.no_grad():
        _load_weights(read, str(tmp_path / "vit.npz"))
    assert_same(read.state_dict(), written.state_dict())


@pytest.mark.parametrize("stacked", [False, True], ids=["blocks one by one", "blocks stacked"])
@pytest.mark.parametrize("root", ["", "params/"])
def test_big_visions_spellings_read_as_timm_reads_them(root, stacked, tmp_path):
    written, read = random_timm(**KINDS["map"]), random_timm(**KINDS["map"])
    flax = big_vision(from_vitfw(written.state_dict(), HEADS), stacked, root)
    np.savez(tmp_path / "vit.npz", **{name: array.numpy() for name, array in flax.items()})
    with torch.no_grad():
        _load_weights(read, str(tmp_path / "vit.npz"))
    translated = to_vitfw(read_npz(tmp_path / "vit.npz"))
    assert not translated.ignored and not translated.unknown
    assert_same(translated.state, read.state_dict())
    assert_same(translated.state, written.state_dict())


def test_the_axes_of_a_published_base_model():
    with torch.device("meta"):
        flax = from_vitfw(timm.create_model("vit_base_patch16_224").state_dict(), 12)
    block = "Transformer/encoderblock_11"
    shapes = {
        "cls": (1, 1, 768),
        "embedding/kernel": (16, 16, 3, 768),
        "embedding/bias": (768,),
        "Transformer/posembed_input/pos_embedding": (1, 197, 768),
        f"{block}/LayerNorm_0/scale": (768,),
        f"{block}/LayerNorm_2/bias": (768,),
        f"{block}/MultiHeadDotProductAttention_1/query/kernel": (768, 12, 64),
        f"{block}/MultiHeadDotProductAttention_1/value/bias": (12, 64),
        f"{block}/MultiHeadDotProductAttention_1/out/kernel": (12, 64, 768),
        f"{block}/MultiHeadDotProductAttention_1/out/bias": (768,),
        f"{block}/MlpBlock_3/Dense_0/kernel": (768, 3072),
        f"{block}/MlpBlock_3/Dense_1/kernel": (3072, 768),
        "Transformer/encoder_norm/scale": (768,),
        "head/kernel": (768, 1000),
    }
    assert {name: tuple(flax[name].shape) for name in shapes} == shapes
    assert len(flax) == 4 + 12 * 16 + 2 + 2


# ── there and back ────────────────────────────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_file_gives_back_the_same_bits(kind, dtype, tmp_path):
    state = random_timm(**kind).to(dtype).state_dict()
    write_npz(tmp_path / "vit.npz", state, HEADS)
    translated = to_vitfw(read_npz(tmp_path / "vit.npz"))
    assert not translated.ignored and not translated.unknown
    assert_same(translated.state, state)


def test_one_model_is_recognised_by_its_names_and_another_is_not():
    state = random_timm().state_dict()
    flax = from_vitfw(state, HEADS)
    assert recognises(flax) and not recognises(state)
    for root in ("params/", "params/img/", "opt/target/"):
        assert recognises({root + name for name in flax})


@pytest.mark.parametrize("root", ["", "opt/target/", "params/img/"])
def test_other_arrays_are_named_and_none_is_lost(root):
    state = random_timm().state_dict()
    flax = {root + name: array for name, array in from_vitfw(state, HEADS).items()}
    flax |= {
        "opt/state/step": torch.zeros(1),
        "params/txt/head/bias": torch.zeros(4),
        "params/t": torch.zeros(1),
        f"{root}conv_root/kernel": torch.zeros(7, 7, 3, 64),
    }
    translated = to_vitfw(flax)
    assert_same(translated.state, state)
    assert set(translated.ignored) == {"opt/state/step", "params/txt/head/bias", "params/t"}
    assert translated.unknown == [f"{root}conv_root/kernel"]


def test_a_head_behind_a_representation_layer_is_left_out_with_it():
    flax = from_vitfw(random_timm().state_dict(), HEADS)
    flax |= {"pre_logits/kernel": torch.zeros(24, 24), "pre_logits/bias": torch.zeros(24)}
    translated = to_vitfw(flax)
    assert not translated.unknown
    assert set(translated.ignored) == {
        "pre_logits/kernel",
        "pre_logits/bias",
        "head/kernel",
        "head/bias",
    }
    assert not any(name.startswith("head") for name in translated.state)


def test_arrays_with_other_axes_are_unknown():
    flax = from_vitfw(random_timm().state_dict(), HEADS)
    flax["embedding/kernel"] = flax["embedding/kernel"].flatten(0, 2)  # NaFlex: patches as rows
    flax["Transformer/posembed_input/pos_embedding"] = torch.zeros(4, 4, 24)[None]
    translated = to_vitfw(flax)
    assert set(translated.unknown) == {
        "embedding/kernel",
        "Transformer/posembed_input/pos_embedding",
    }
    assert "patch_embed.proj.weight" not in translated.state


@pytest.mark.parametrize(
    "option, tensor",
    [
        ({"reg_tokens": 2}, "reg_token"),
        ({"init_values": 0.1}, "ls1.gamma"),
        ({"qk_norm": True}, "attn.q_norm.weight"),
        ({"global_pool": "avg"}, "fc_norm.weight"),
    ],
)
def test_what_the_format_has_no_place_for_is_named(option, tensor):
    with pytest.raises(ConfigError, match="no place") as error:
        from_vitfw(random_timm(**option).state_dict(), HEADS)
    assert tensor in str(error.value)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="num_heads 5 does not divide"):
        from_vitfw(random_timm().state_dict(), 5)


@each_kind
def test_options_are_those_of_the_model_that_was_written(kind):
    flax = from_vitfw(random_timm(**kind).state_dict(), HEADS)
    options = options_of(flax)
    assert options.items() >= {**SMALL, **kind, "img_size": (16, 16), "patch_size": (4, 4)}.items()
    VisionTransformer(**options).load_state_dict(to_vitfw(flax).state, strict=True)


def test_options_of_other_arrays_are_refused():
    with pytest.raises(ConfigError, match="not the weights of a ViT"):
        options_of({"embedding/kernel": torch.zeros(4, 4, 3, 8)})


def test_two_arrays_for_one_tensor_are_both_named():
    flax = from_vitfw(random_timm().state_dict(), HEADS)
    twice = {"Transformer/encoder_norm/scale", "Transformer/encoder_norm/weight"}
    flax["Transformer/encoder_norm/weight"] = torch.ones(24)
    one, all_blocks = (f"Transformer/encoderblock{i}/LayerNorm_0/bias" for i in ("_1", ""))
    flax[all_blocks] = torch.ones(2, 24)
    unknown = set(to_vitfw(flax).unknown)
    assert twice | {one, all_blocks} <= unknown
    assert "norm.weight" not in to_vitfw(flax).state


# ── bad files ─────────────────────────────────────────────────────────────────────────────────


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in a file was run",))


def refused(path, content: bytes, match: str = "is not an .npz archive"):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        read_npz(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    write_npz(tmp_path / "vit.npz", random_timm(depth=1).state_dict(), HEADS)
    whole = (tmp_path / "vit.npz").read_bytes()
    for size in [0, 1, 4, 30, *range(100, len(whole), 997), len(whole) - 1]:
        refused(tmp_path / "cut.npz", whole[:size])


def test_damaged_bytes_give_an_error_for_people_or_arrays(tmp_path):
    write_npz(tmp_path / "vit.npz", {"cls_token": torch.randn(1, 1, 8)}, HEADS)
    whole = (tmp_path / "vit.npz").read_bytes()
    for place in range(len(whole)):
        path = tmp_path / "damaged.npz"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(ConfigError):
            read_npz(path)


def test_pickled_code_is_never_run(tmp_path):
    refused(tmp_path / "a.npz", pickle.dumps(Bomb()))
    objects = io.BytesIO()
    np.savez(objects, cls=np.array([Bomb()], dtype=object))
    refused(tmp_path / "b.npz", objects.getvalue(), "objects in it are never loaded")


def test_other_archives_are_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    refused(tmp_path / "array.npz", array.getvalue(), "not an .npz archive of named arrays")
    words = io.BytesIO()
    np.savez(words, cls=np.array(["words"]))
    refused(tmp_path / "words.npz", words.getvalue())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as sink:
        sink.writestr("readme.txt", "not an array")
    refused(tmp_path / "zip.npz", archive.getvalue())
    checkpoint = io.BytesIO()
    torch.save(random_timm().state_dict(), checkpoint)
    refused(tmp_path / "torch.npz", checkpoint.getvalue())
    with pytest.raises(ConfigError, match="there is no file"):
        read_npz(tmp_path / "nothing.npz")


def test_big_endian_arrays_are_read(tmp_path):
    np.savez(tmp_path / "big.npz", cls=np.arange(3, dtype=">f4"))
    assert read_npz(tmp_path / "big.npz")["cls"].tolist() == [0, 1, 2]

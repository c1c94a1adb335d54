"""Low-rank adapters: how few are trained, what they compute, and the same without them."""

import copy
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.adaptation import adapt, check_lora
from vitfw.training.lora import fold_adapters
from vitfw.training.optimizers import adamw

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 12}
TINY |= {"depth": 2, "num_heads": 2}
MAKERS = {
    "ours": lambda: VisionTransformer(**TINY),
    "separate": lambda: VisionTransformer(**TINY, fused_qkv=False),
    "swiglu": lambda: VisionTransformer(**TINY, mlp_layer="swiglu", k_bias=False),
    "parallel": lambda: VisionTransformer(**TINY, block_layer="parallel"),
    "seq": lambda: VisionTransformer(**TINY, class_token=False, global_pool="seq"),
    "timm": lambda: timm.create_model("vit_tiny_patch16_224", **TINY),
    "distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **TINY),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=3, in_chans=1),
}


def trained(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def take_steps(net: nn.Module, images: torch.Tensor) -> None:
    optimizer = adamw(net, lr=1e-2, weight_decay=0.1)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(images), torch.arange(len(images)) % 3).backward()
        optimizer.step()
    net.eval()


@pytest.mark.parametrize("rank", [4, 8])
def test_less_than_two_percent_of_vit_b16_are_trained(rank):
    with torch.device("meta"):
        net = VisionTransformer(num_classes=10)
    adapt(net, lora={"rank": rank})
    sides = [(768, 3 * 768), (768, 768), (768, 4 * 768), (4 * 768, 768)]
    adapters = 12 * sum(rank * (inputs + outputs) for inputs, outputs in sides)
    counts = {name: parameter.numel() for name, parameter in net.named_parameters()}
    found = sum(counts[name] for name in trained(net))
    assert found == adapters + 10 * 769
    assert found < 0.02 * sum(counts.values())


@pytest.mark.parametrize("name", MAKERS)
def test_adapters_and_head_move_all_else_stays_to_the_bit_and_folded_logits_are_equal(name):
    """Folded, the state dict has the names of a net without adapters, and loads into one."""
    images = torch.randn(6, 1, 32, 32) if name == "convnext" else torch.randn(6, 1, 8, 8)
    plain = MAKERS[name]()
    net = copy.deepcopy(plain)
    adapt(net, lora={"rank": 2, "alpha": 5})
    torch.testing.assert_close(net.eval()(images), plain.eval()(images), rtol=0, atol=0)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    take_steps(net, images)
    moved = {
        key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert moved == trained(net)
    assert {key for key in moved if ".lora_" not in key} == {
        key for key in plain.state_dict() if key.startswith("head") and "norm" not in key
    }
    expected = net(images)
    assert (expected - plain(images)).abs().max() > 1e-2
    plain.load_state_dict(fold_adapters(net.state_dict(), alpha=5))
    torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5)


def test_folding_is_the_sum_in_float64_and_peft_agrees():
    net = MAKERS["ours"]()
    adapt(net, lora={"rank": 3, "alpha": 7, "dropout": 0.2})
    take_steps(net, torch.randn(6, 1, 8, 8))
    state, folded = net.state_dict(), fold_adapters(net.state_dict(), alpha=7)
    layer = "blocks.1.mlp.fc2"
    weight, down, up = (
        state[f"{layer}.{part}.weight"].numpy().astype("float64")
        for part in ("base_layer", "lora_A.default", "lora_B.default")
    )
    exact = torch.from_numpy(weight + 7 / 3 * up @ down)
    torch.testing.assert_close(folded[f"{layer}.weight"].double(), exact, rtol=1e-7, atol=1e-8)
    for name, module in net.named_modules():
        if hasattr(module, "lora_A"):
            module.merge()
            found = folded[f"{name}.weight"]
            torch.testing.assert_close(found, module.get_base_layer().weight, rtol=1e-5, atol=1e-7)


def test_only_layers_that_are_named_get_adapters_and_train_only_adds_to_them():
    net = MAKERS["ours"]()
    options = {"rank": 2, "targets": ["attn.qkv"]}
    adapt(net, freeze=["head.*"], train_only=["*norm*", "head.*"], lora=options)
    layers = {name.partition(".lora_")[0] for name in trained(net) if ".lora_" in name}
    assert layers == {"blocks.0.attn.qkv", "blocks.1.attn.qkv"}
    others = {name for name in trained(net) if ".lora_" not in name}
    norms = [f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)] + ["norm"]
    assert others == {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}


def test_adapters_alone_may_be_trained():
    net = MAKERS["ours"]()
    adapt(net, freeze=["*"], lora={"rank": 2})
    assert trained(net) and all(".lora_" in name for name in trained(net))


def test_rank_0_changes_nothing():
    net = MAKERS["ours"]()
    names = list(net.state_dict())
    adapt(net, lora={"rank": 0, "alpha": 16, "dropout": 0.0, "targets": ["no.such.layer"]})
    assert list(net.state_dict()) == names and trained(net) == set(names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": -1}, r"lora\.rank=-1 must be a whole number"),
        ({"rank": 2.5}, r"lora\.rank=2\.5 must be a whole number"),
        ({"rank": 2, "alpha": 0}, r"lora\.alpha=0 must be more than 0"),
        ({"rank": 2, "dropout": 1.0}, r"lora\.dropout=1\.0 must be from 0 to below 1"),
        ({"rank": 2, "targets": []}, r"lora\.targets is empty"),
        (
            {"rank": 2, "targets": ["attn.qvk"]},
            r"called attn\.qvk; there are attn\.qkv, attn\.proj, mlp\.fc1, mlp\.fc2$",
        ),
        ({"rank": 2, "targets": ["head"]}, r"no linear layer is called head"),
        ({"rank": 2, "targets": ["patch_embed.proj"]}, r"no linear layer is called patch_embed"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        adapt(MAKERS["ours"](), lora=options)


def test_a_net_without_linear_layers_is_refused():
    with pytest.raises(ConfigError, match="called blocks.*; the net has none"):
        adapt(timm.create_model("resnet10t", num_classes=3), lora={"rank": 2})


def test_timms_layers_that_are_used_past_an_adapter_are_refused_and_ours_are_not():
    options = {"img_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 3}
    net = timm.create_model("beit_base_patch16_224", **{**options, "img_size": 32})
    with pytest.raises(ConfigError, match=r"past any adapter; .*lora\.targets=\[attn\.proj,mlp"):
        adapt(net, lora={"rank": 2})
    adapt(net, lora={"rank": 2, "targets": ["attn.proj", "mlp.*"]})
    take_steps(net, torch.randn(6, 3, 32, 32))
    assert all(net.get_parameter(name).grad is not None for name in trained(net))


def test_without_peft_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora\.rank=8 needs peft: pip install 'vitfw\[peft\]'"):
        adapt(MAKERS["ours"](), lora={"rank": 8})


def test_parts_of_an_adapter_that_do_not_fit_are_refused_or_left():
    state = {
        "fc.base_layer.weight": torch.zeros(4, 6),
        "fc.lora_A.default.weight": torch.zeros(2, 6),
        "fc.lora_B.default.weight": torch.zeros(4, 3),
    }
    with pytest.raises(ConfigError, match=r"adapter of fc does not fit it: \[4, 3\] · \[2, 6\]"):
        fold_adapters(state, 16)
    half = {name: tensor for name, tensor in state.items() if "lora_B" not in name}
    assert list(fold_adapters(half, 16)) == list(half)


def test_adapters_of_random_weights_are_refused():
    """Those of a file, or of timm's pretrained models, are not."""
    lora = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["blocks.*"]}
    model = {"_target_": "vitfw.models.vit.VisionTransformer", "depth": 1}
    start = {"lora": lora, "init_from": None, "model": model}
    with pytest.raises(ConfigError, match=r"lora.rank=4 .* init_from="):
        check_lora(start)
    check_lora(start | {"init_from": "x.ckpt"})
    check_lora(
        start | {"model": {"_target_": "vitfw.interop.timm_model.create", "pretrained": True}}
    )
    check_lora(start | {"model": {"_target_": "mine.net_with_its_weights"}})
    check_lora(start | {"lora": lora | {"rank": 0}})

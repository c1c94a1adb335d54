"""What is frozen stands still to the bit, what is not moves, and unknown names are refused."""

import re

import lightning as L
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.adaptation import adapt
from vitfw.training.freezing import keep_frozen_norms_still
from vitfw.training.optimizers import adamw

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 12}
TINY |= {"depth": 2, "num_heads": 2}


def tiny(**options) -> VisionTransformer:
    return VisionTransformer(**{**TINY, **options})


def moved_by_training(net: nn.Module, size: int = 8) -> set[str]:
    """Names of the tensors, buffers too, that three steps of AdamW with weight decay change."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = adamw(net, lr=1e-2, weight_decay=0.1)
    net.train()
    keep_frozen_norms_still(net)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(6, 1, size, size)), torch.arange(6) % 3).backward()
        optimizer.step()
    after = net.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_frozen_parameters_stay_to_the_bit_and_all_others_move():
    net = tiny()
    adapt(net, freeze=["patch_embed.*", "blocks.0.*", "pos_embed"])
    names = {name for name, _ in net.named_parameters()}
    still = {n for n in names if n.startswith(("patch_embed", "blocks.0.", "pos_embed"))}
    assert len(still) == 15
    assert moved_by_training(net) == names - still


def test_null_freezes_nothing():
    net = tiny()
    adapt(net, freeze=None, train_only=None)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_bitfit_moves_the_biases_and_the_head_and_nothing_else():
    """Among the biases those of queries and values, where the key has none."""
    net = tiny(k_bias=False)
    adapt(net, train_only=["*bias", "head*"])
    kept = {
        f"{name}.bias"
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm) and module.bias is not None
    }
    apart = {f"blocks.{i}.attn.{part}_bias" for i in (0, 1) for part in "qv"}
    assert moved_by_training(net) == kept | apart | {"head.weight"}


def test_bitfit_trains_a_thousandth_of_vit_b16():
    with torch.device("meta"):
        net = VisionTransformer(num_classes=10)
    adapt(net, train_only=["*bias", "head*"])
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    blocks = 12 * (768 + 3 * 768 + 768 + 768 + 4 * 768 + 768)  # norm1 qkv proj norm2 fc1 fc2
    assert trained == blocks + 768 + 768 + 10 * 769  # patch embedding, last norm, head
    assert trained / 85_806_346 == pytest.approx(0.0013, abs=1e-4)


def test_freezing_takes_away_from_what_train_only_names():
    net = tiny()
    adapt(net, freeze=["blocks.0.*"], train_only=["*.bias"])
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert "blocks.1.attn.qkv.bias" in trained
    assert not {name for name in trained if name.startswith("blocks.0.")}


def test_a_table_of_fixed_positions_is_not_made_trainable():
    net = tiny(pos_embed="sincos2d")
    adapt(net, train_only=["pos_embed", "head.*"])
    assert not net.get_parameter("pos_embed").requires_grad


def test_without_patterns_all_is_trained():
    net = tiny()
    adapt(net)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"freeze": ["blocks.0"]}, r"freeze: no .* called blocks\.0; did you mean blocks\.0\.\*\?"),
        ({"freeze": ["patch_embd.*"]}, r"did you mean patch_embed\.\*"),
        (
            {"freeze": ["stem.*"]},
            r"called stem\.\*; there are cls_token, pos_embed, patch_embed\.\*, blocks\.\*",
        ),
        ({"train_only": ["*.bias", "haed.*"]}, r"train_only: .* haed\.\*; did you mean head\.\*"),
        ({"train_only": ["blocks.7.*"]}, r"did you mean blocks\.\d\.\*"),
        ({"freeze": ["*"]}, r"freeze=\['\*'\] leaves nothing to train"),
        ({"freeze": ["head.*"], "train_only": ["head.*"]}, r"freeze=.* and train_only=.* leaves"),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_the_nearest_names(patterns, said):
    with pytest.raises(ConfigError, match=said):
        adapt(tiny(), **patterns)


# ── BatchNorm ─────────────────────────────────────────────────────────────────────────────────


def test_a_frozen_batch_norm_keeps_its_statistics_and_one_that_learns_moves_them():
    net = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    adapt(net, freeze=["conv1.*", "bn1.*", "layer1.*"])
    moved = moved_by_training(net, size=32)
    assert not {name for name in moved if name.startswith(("conv1.", "bn1.", "layer1."))}
    assert {"layer2.0.bn1.running_mean", "layer2.0.bn1.running_var", "fc.weight"} <= moved
    names = [name for name, _ in net.named_buffers() if name.startswith("layer2.")]
    assert names and set(names) <= moved


def test_a_batch_norm_whose_bias_alone_learns_goes_on_counting():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2))
    adapt(net, train_only=["*.bias"])
    net.train()
    keep_frozen_norms_still(net)
    assert net[0].training and net[1].training


class Fitted(L.LightningModule):
    """The least that fits and validates."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def on_train_epoch_start(self) -> None:
        keep_frozen_norms_still(self.net)

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_validation_in_the_middle_of_an_epoch_does_not_wake_a_frozen_norm(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    adapt(net, freeze=["0.*"])
    data = DataLoader(TensorDataset(torch.randn(32, 4) + 5, torch.arange(32) % 2), batch_size=4)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        val_check_interval=0.25,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Fitted(net), data, data)
    assert torch.equal(net[0].running_mean, torch.zeros(4))
    assert net[2].num_batches_tracked == 16


ANEW = ["seq_pool.score.weight", "seq_pool.score.bias", "cls_token", "head.weight"]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"train_only": ["head.*"]}, r"cls_token, seq_pool\.\*"),
        ({"train_only": ["head.*", "seq_pool.*"]}, r"cls_token"),
        ({"train_only": ["blocks.*"]}, r"cls_token, head\.\*, seq_pool\.\*"),
        ({"lora": {"rank": 2, "targets": ["attn.qkv"]}}, r"cls_token, seq_pool\.\*"),
        ({"freeze": ["head.*"]}, r"head\.\*"),
    ],
)
def test_what_was_drawn_anew_must_not_be_frozen_and_the_remedy_helps(options, frozen):
    with pytest.raises(ConfigError, match=f"loaded into {frozen}: ") as refused:
        adapt(tiny(class_token=True, global_pool="seq"), **options, anew=ANEW)
    (listed,) = re.findall(r"train_only=\[(.*?)\]", str(refused.value))
    adapt(tiny(class_token=True, global_pool="seq"), train_only=listed.split(","), anew=ANEW)


@pytest.mark.parametrize("options", [{}, {"freeze": ["blocks.*"]}])
def test_what_was_drawn_anew_may_be_trained(options):
    adapt(tiny(class_token=True, global_pool="seq"), **options, anew=ANEW)


def test_positions_that_are_never_trained_are_not_missed():
    adapt(tiny(pos_embed="sincos2d"), train_only=["head.*"], anew=["pos_embed", "head.weight"])

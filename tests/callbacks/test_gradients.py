"""Gradient norms and update ratios, against torch's own norms, closed forms and the weights."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
import timm
import torch
from lightning.pytorch.strategies import FSDPStrategy
from tiny_fit import BATCH, batches, fit, sgd, small_net
from torch import nn

from vitfw.callbacks import gradients
from vitfw.callbacks.gradients import Gradients, StepSizes, trained_parts
from vitfw.models.vit import VisionTransformer
from vitfw.training.sam import SAM

PARTS = ("1", "3")  # the two linear layers of `small_net`


class TotalNorms(L.Callback):
    """What torch says the norm of all gradients is, before clipping."""

    def __init__(self):
        self.totals = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters()]
        self.totals.append(float(torch.nn.utils.get_total_norm(gradients)))


def part_norms(net: nn.Sequential, value) -> dict[str, float]:
    """‖value(p)‖ over the parameters of each part."""
    return {
        part: math.sqrt(sum(float(value(p).pow(2).sum()) for p in net[int(part)].parameters()))
        for part in PARTS
    }


def test_the_total_is_torchs_norm_of_all_gradients_before_they_are_clipped():
    torchs = TotalNorms()
    records, _ = fit(Gradients(), torchs, gradient_clip_val=1e-3)
    totals = records.curve("gradient_norm/total")
    assert list(totals) == [1, 2, 3, 4]
    assert list(totals.values()) == pytest.approx(torchs.totals)
    parts = [records.curve(f"gradient_norm/{part}") for part in PARTS]
    for step, total in totals.items():
        assert math.hypot(*(part[step] for part in parts)) == pytest.approx(total)


def test_an_sgd_step_is_its_rate_times_the_gradient_over_the_weights():
    net = small_net()
    weights = part_norms(net, lambda p: p.detach())
    records, _ = fit(Gradients(), net=net, max_steps=1)
    for part in PARTS:
        gradient = records.curve(f"gradient_norm/{part}")[1]
        expected = 0.1 * gradient / weights[part]
        assert records.curve(f"update_ratio/{part}")[1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": sgd, "agc": 1e-4},
        {"optimizer": sgd, "accumulate_grad_batches": 2},
        {"optimizer": lambda net: SAM(sgd(net), net, rho=0.5)},
        {"optimizer": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)},
    ],
    ids=["agc", "accumulation", "sam", "adamw"],
)
def test_the_ratio_is_how_far_the_weights_went(options):
    net = small_net()
    before = {p: p.detach().clone() for p in net.parameters()}
    records, _ = fit(Gradients(), net=net, max_steps=1, **options)
    moved = part_norms(net, lambda p: p.detach() - before[p])
    weights = part_norms(net, lambda p: before[p])
    for part in PARTS:
        ratio = records.curve(f"update_ratio/{part}")[1]
        assert ratio == pytest.approx(moved[part] / weights[part], rel=1e-4) and ratio > 0


def gradient_by_hand(net: nn.Module, count: int) -> float:
    """The norm of the mean gradient over the first `count` batches."""
    images, labels = batches(4).dataset[: count * BATCH]
    loss = nn.functional.cross_entropy(net(images), labels)
    return float(torch.nn.utils.get_total_norm(torch.autograd.grad(loss, [*net.parameters()])))


def test_an_accumulated_gradient_is_that_of_the_whole_batch():
    net = small_net()
    expected = gradient_by_hand(net, 2)
    records, _ = fit(Gradients(), net=net, accumulate_grad_batches=2)
    assert records.curve("gradient_norm/total")[1] == pytest.approx(expected, rel=1e-5)


def test_of_sam_the_gradient_is_that_of_the_weights_not_of_the_point_uphill():
    net = small_net()
    expected = gradient_by_hand(net, 1)
    records, _ = fit(
        Gradients(), net=net, optimizer=lambda net: SAM(sgd(net), net, rho=5.0), max_steps=1
    )
    assert records.curve("gradient_norm/total")[1] == pytest.approx(expected, rel=1e-5)


def test_a_logging_while_gradients_gather_waits_for_the_step():
    records, _ = fit(
        Gradients(), data=batches(8), accumulate_grad_batches=4, log_every_n_steps=3, max_epochs=1
    )
    assert list(records.curve("gradient_norm/total")) == [1, 2]


def test_every_second_logging_is_half_of_them():
    records, _ = fit(Gradients(every_n_log=2))
    assert list(records.curve("gradient_norm/total")) == [1, 3]


def test_weights_that_are_all_zero_have_no_ratio_but_a_gradient():
    net = small_net()
    nn.init.zeros_(net[3].weight)
    nn.init.zeros_(net[3].bias)
    records, _ = fit(Gradients(), net=net, max_steps=1)
    assert records.curve("update_ratio/3") == {} and records.curve("gradient_norm/3")[1] > 0


@pytest.mark.parametrize("off", ["norms", "update_ratios"])
def test_each_half_can_be_switched_off(off):
    whole, _ = fit(Gradients(), net=seeded_net())
    half, _ = fit(Gradients(**{off: False}), net=seeded_net())
    left_out = {"norms": "gradient_norm/", "update_ratios": "update_ratio/"}[off]
    assert whole.tags(left_out) and not half.tags(left_out)
    kept = {tag for tag in whole.tags("") if not tag.startswith(left_out)}
    assert half.tags("") == kept
    assert all(half.curve(tag) == whole.curve(tag) for tag in kept)


def seeded_net() -> nn.Module:
    torch.manual_seed(0)
    return small_net()


def test_without_ratios_no_weights_are_copied():
    net = small_net()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert len(StepSizes(trained_parts(net)).before) == 4
    assert StepSizes(trained_parts(net), updates=False).before == []


def test_with_both_switched_off_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(gradients, "StepSizes", None)  # so that it could not be made
    records, _ = fit(Gradients(norms=False, update_ratios=False))
    assert not records.tags("gradient_norm/") | records.tags("update_ratio/")


def test_where_a_process_has_a_part_of_the_weights_nothing_is_measured():
    callback = Gradients()
    trainer = SimpleNamespace(
        strategy=FSDPStrategy(), is_global_zero=True, log_every_n_steps=1, num_training_batches=9
    )
    callback.on_train_batch_start(trainer, None, None, 0)
    callback.on_before_optimizer_step(trainer, small_net(), None)
    callback.on_train_batch_end(trainer, None, None, None, 0)  # it would log, which this cannot


# ── parts ─────────────────────────────────────────────────────────────────────────────────────


def test_the_parts_of_a_vision_transformer():
    net = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=1)
    parts = trained_parts(net)
    blocks = {"blocks.0", "blocks.1", "blocks.2"}
    assert set(parts) == {"tokens", "patch_embed", *blocks, "norm", "head"}
    assert {id(p) for p in parts["tokens"]} == {id(net.cls_token), id(net.pos_embed)}
    assert sum(len(each) for each in parts.values()) == len([*net.parameters()])


def test_the_parts_of_a_convolutional_net_of_timm():
    net = timm.create_model("resnet18")
    stages = {f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)}
    assert set(trained_parts(net)) == {"conv1", "bn1", *stages, "fc"}


def test_frozen_weights_are_no_part_and_what_stands_beside_the_net_is_one():
    module = nn.Module()
    module.net = small_net()
    module.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    module.net[1].requires_grad_(False)
    parts = trained_parts(module)
    assert set(parts) == {"3", "heads"}
    assert len(parts["heads"]) == 6


def test_a_number_of_loggings_below_one_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.gradients\.every_n_log 0 must be at least 1"):
        Gradients(every_n_log=0)

"""The check before training: every rule speaks where it should, and nowhere else."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from vitfw.assemble import build_net, count_steps, effective_batch_size, resolve_trainer
from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.data.datamodule import ImageData
from vitfw.errors import ConfigError
from vitfw.guard_rails.plan import Plan, ema_memory, plan_of, takes_soft_targets, usual_choice
from vitfw.guard_rails.rules import LONGEST_MEMORY, RULES, check_plan, refuse, warn
from vitfw.models.vit import VisionTransformer

ROOT = Path(__file__).parents[1]
SOUND = Plan(
    token_counts={"model.patch_size": 64},
    patch_side=4,
    img_side=32,
    native_side=32,
    stem=False,
    ordered=True,
    depth=12,
    drop_path_rate=0.1,
    from_scratch=True,
    train_images=45_000,
    val_images=5_000,
    validates=True,
    device_batch=128,
    batch_size=128,
    total_steps=35_000,
    max_steps=None,
    warmup_steps=1_750,
    lr=1e-3,
    lr_factor=1.0,
    usual_lr=1e-3,
    last_lr_share=0.0,
    schedule_free=False,
    precision="bf16-mixed",
    mixing=True,
    loss="loss=CrossEntropyLoss",
    takes_soft_targets=True,
    monitored=("val/accuracy",),
    average_memory=1_000.0,
    average_start=None,
    hflip=0.5,
    usual_hflip=0.5,
    idle={},
)
# What each rule warns of, with the number and the remedy; and what is near, and sound.
CASES = {
    "few_tokens": (
        {"token_counts": {"model.patch_size": 4}, "img_side": 28},
        ("4 tokens", "model.patch_size=7"),
        {"token_counts": {"model.patch_size": 16}},
    ),
    "large_batch": (
        {"train_images": 1_000, "batch_size": 1_024, "device_batch": 256},
        ("1,024 images", "1.0 times", "1,000", "data.batch_size=125"),
        {"train_images": 1_000, "batch_size": 500},
    ),
    "unreached_steps": (
        {"max_steps": 100_000},
        ("trainer.max_steps=100,000", "35,000 steps", "trainer.max_epochs=null"),
        {"max_steps": 35_000},
    ),
    "long_warmup": (
        {"warmup_steps": 500, "total_steps": 400, "average_memory": None},
        ("500 steps", "400", "scheduler.warmup=5%"),
        {"warmup_steps": 34_999},
    ),
    "unusual_lr": (
        {"lr": 1e-2},
        ("0.01 is 10 times", "128", "optimizer.lr=0.001"),
        {"lr": 9e-3},
    ),
    "rounded_weights": (
        {"precision": "bf16-true"},
        ("8 bits", "1/256", "trainer.precision=bf16-mixed"),
        {"precision": "32-true"},
    ),
    "no_validation": (
        {"val_images": 0},
        ("0 validation images", "data.val_share=0.1"),
        {"val_images": 1},
    ),
    "enlarged_images": (
        {"img_side": 224, "native_side": 32},
        ("32 pixels", "224", "49 times", "model.img_size=32"),
        {"img_side": 224, "native_side": 32, "from_scratch": False},
    ),
    "no_positions": (
        {"ordered": False},
        ("64 tokens", "model.pos_embed=learn"),
        {"ordered": True},
    ),
    "drop_path_of_one_block": (
        {"depth": 1},
        ("0.1", "model.drop_path_rate=0"),
        {"depth": 2},
    ),
    "idle_options": (
        {"idle": {"lora.targets": "lora.rank=8"}},
        ("lora.targets does nothing", "lora.rank=8"),
        {"idle": {}},
    ),
    "slow_average": (
        {"average_memory": 10_000.0, "total_steps": 2_000},
        ("10,000 steps", "2,000", "average.warmup=true or average.decay=0.995"),
        {"average_memory": 10_000.0, "total_steps": 30_000},
    ),
    "late_average": (
        {"average_start": 40_000, "last_lr_share": 0.1},
        ("step 40,000", "35,000", "average.start=75%"),
        {"average_start": 26_250, "last_lr_share": 0.1},
    ),
    "still_average": (
        {"average_start": 26_250, "last_lr_share": 0.01},
        ("ends at 0.01", "scheduler.final=0.1", "scheduler=constant"),
        {"average_start": 26_250, "last_lr_share": 0.1},
    ),
    "lowered_schedule_free": (
        {"schedule_free": True},
        ("falls to 0 of", "scheduler=constant"),
        {"schedule_free": True, "last_lr_share": 1.0},
    ),
    "mixing_with_hard_labels": (
        {"takes_soft_targets": False, "loss": "loss=MultiMarginLoss"},
        ("two labels", "MultiMarginLoss takes one", "augment.mixing.mixup=0"),
        {"takes_soft_targets": False, "mixing": False},
    ),
    "monitoring_mixed_images": (
        {"monitored": ("val/loss", "train/accuracy")},
        ("train/accuracy", "monitor val/accuracy"),
        {"monitored": ("train/accuracy",), "mixing": False},
    ),
    "mixing_alone": (
        {"device_batch": 1},
        ("has 1", "data.batch_size=2"),
        {"device_batch": 1, "mixing": False},
    ),
    "mirrored_classes": (
        {"usual_hflip": 0.0},
        ("augment.hflip=0.5", "augment.hflip=0"),
        {"usual_hflip": 0.0, "hflip": 0.0},
    ),
}


def test_every_rule_has_a_case_here_and_a_reason_in_the_documentation():
    names = [rule.__name__ for rule in RULES]
    assert sorted(names) == sorted(CASES)
    page = (ROOT / "docs" / "guard_rails.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in page] == []


def test_a_sound_plan_is_left_in_peace():
    assert check_plan(SOUND) == []


@pytest.mark.parametrize("rule", CASES)
def test_it_speaks_with_the_number_and_the_remedy(rule):
    changed, said, _ = CASES[rule]
    (concern,) = check_plan(replace(SOUND, **changed))
    assert concern.rule == rule
    for words in said:
        assert words in concern.message


@pytest.mark.parametrize("rule", CASES)
def test_it_is_silent_where_all_is_well(rule):
    assert check_plan(replace(SOUND, **CASES[rule][2])) == []


@pytest.mark.parametrize("lr", [1e-2, 1e-4])
def test_a_learning_rate_is_odd_on_both_sides_but_low_where_weights_are_given(lr):
    assert [c.rule for c in check_plan(replace(SOUND, lr=lr))] == ["unusual_lr"]
    tuned = replace(SOUND, lr=lr, from_scratch=False)
    assert [c.rule for c in check_plan(tuned)] == (["unusual_lr"] if lr > 1e-3 else [])


@pytest.mark.parametrize("embed_layer", ["conv", "conv_stem"])
@pytest.mark.parametrize("side", [2, 4, 6, 8, 14, 28, 30, 32, 64, 96, 224])
def test_what_is_proposed_against_few_tokens_builds_a_model_with_enough(side, embed_layer):
    patch_size = 2 if side == 6 else side & -side  # the model that has too few of them
    few = replace(
        SOUND,
        token_counts={"model.patch_size": 1},
        patch_side=patch_size,
        img_side=side,
        native_side=None,
        stem=embed_layer == "conv_stem",
    )
    (concern,) = check_plan(few)
    key, value = re.findall(r"model\.(patch_size|img_size)=(\d+)", concern.message)[0]
    options = {"img_size": side, "patch_size": patch_size} | {key: int(value)}
    with torch.device("meta"):
        net = VisionTransformer(
            **options, embed_layer=embed_layer, embed_dim=16, depth=1, num_heads=1
        )
    assert net.patch_embed.num_patches >= 16
    assert key == "patch_size" or side < 8 or embed_layer == "conv_stem"


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("model.flexi_patch_sizes", "none of them above 8"),  # 32 / 8 is 4
        ("augment.progressive.sizes", "none of them below 16"),  # 16 / 4 is 4
        ("model.img_size", "model.img_size=16 or larger"),
    ],
)
def test_the_key_that_makes_the_tokens_few_is_named(key, remedy):
    (concern,) = check_plan(replace(SOUND, token_counts={"x": 64, key: 9}))
    assert "9 tokens" in concern.message and remedy in concern.message
    assert key in concern.message and "model.patch_size" not in concern.message


# ── saying it ─────────────────────────────────────────────────────────────────────────────────

TWO_FAULTS = replace(SOUND, val_images=0, lr=1.0)


def test_a_warning_has_lines_of_80_columns(caplog):
    with caplog.at_level("WARNING", "vitfw"):
        warn(check_plan(TWO_FAULTS))
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert all(len(line) <= 80 for line in record.getMessage().splitlines())
    assert "optimizer.lr=0.001" in caplog.text


def test_strict_lists_all_of_them_in_one_line():
    with pytest.raises(ConfigError) as caught:
        refuse(check_plan(TWO_FAULTS))
    told = str(caught.value)
    assert "optimizer.lr=0.001" in told and "data.val_share=0.1" in told and "\n" not in told
    refuse([])


# ── the facts ─────────────────────────────────────────────────────────────────────────────────


@cache
def digits(batch_size: int, val_share: float, mixing: float) -> ImageData:
    return read_digits(
        f"data.batch_size={batch_size}",
        f"data.val_share={val_share}",
        f"augment.mixing.mixup={mixing}",
    )


def plan_for(*overrides: str, data: ImageData | None = None) -> Plan:
    """The plan of a command, on a CPU, over the digits unless other data are given."""
    words = ["run_dir=x", *overrides]
    cfg = to_plain(compose("train", words))
    options = resolve_trainer({**cfg["trainer"], "accelerator": "cpu"})
    if data is None:
        mixing = cfg["augment"]["mixing"]["mixup"]
        data = digits(cfg["data"]["batch_size"], cfg["data"]["val_share"], mixing)
    per_epoch, total = count_steps(data, options)
    batch_size = effective_batch_size(data.batch_size, options)
    with torch.device("meta"):
        net = build_net(cfg)
    return plan_of(cfg, net, data, batch_size, total, per_epoch, words)


def rules_and_messages(*overrides: str) -> dict[str, str]:
    return dict(check_plan(plan_for(*overrides)))


def rules_of(*overrides: str) -> set[str]:
    return set(rules_and_messages(*overrides))


def test_the_default_run_has_nothing_to_be_warned_of():
    plan = plan_for()
    assert check_plan(plan) == []
    assert (plan.tokens, plan.train_images, plan.batch_size) == (16, 1295, 64)
    assert (plan.total_steps, plan.warmup_steps) == (40 * (1295 // 64), 40)  # 5 %


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
)
def test_no_shipped_experiment_is_warned_of(name):
    """With as many images of the same shape as the data set has, made up."""
    cfg = to_plain(compose("train", [f"experiment={name}", "run_dir=x", "init_from=null"]))
    options = resolve_trainer({**cfg["trainer"], "accelerator": "cpu"})
    data = build({**cfg["data"], "augment": cfg["augment"], "resident": "auto"})
    counts = {"train": 54_000, "val": 6_000}
    if cfg["data"]["name"] != "fashion_mnist":
        counts = {split: int(data.facts.splits[split]) for split in ("train", "test")}
        counts["val"] = counts["train"] // 10
    data.count = counts.__getitem__
    per_epoch, total = count_steps(data, options)
    batch_size = effective_batch_size(data.batch_size, options)
    with torch.device("meta"):
        net = build_net(cfg)
    words = [f"experiment={name}", "run_dir=x"]
    assert check_plan(plan_of(cfg, net, data, batch_size, total, per_epoch, words)) == []


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["model.patch_size=4"], "few_tokens"),
        (["trainer.accumulate_grad_batches=12"], "large_batch"),
        (["trainer.max_steps=801"], "unreached_steps"),
        (["scheduler.warmup=50ep"], "long_warmup"),
        (["optimizer.lr=0.03"], "unusual_lr"),
        (["optimizer=sgd", "optimizer.lr=1.0"], "unusual_lr"),
        (["lr_scaling=linear", "lr_batch_size=4"], "unusual_lr"),
        (["trainer.precision=bf16-true"], "rounded_weights"),
        (["data.val_share=0"], "no_validation"),
        (["model.embed_layer=conv", "model.pos_embed=none"], "no_positions"),
        (["model.depth=1", "model.drop_path_rate=0.1"], "drop_path_of_one_block"),
        (["optimizer=timm", "optimizer.lr=0.03"], "unusual_lr"),
        (["average=ema", "average.warmup=false"], "slow_average"),
        (["average=ema", "average.warmup=false", "trainer.max_epochs=500"], "slow_average"),
        (["average=swa"], "still_average"),
        (["average=swa", "scheduler=wsd"], "still_average"),
        (["optimizer=schedule_free"], "lowered_schedule_free"),
        (["average=swa", "average.start=900"], "late_average"),
        (
            ["augment.mixing.mixup=0.8", "loss._target_=torch.nn.NLLLoss", "~loss.label_smoothing"],
            "mixing_with_hard_labels",
        ),
        (
            ["augment.mixing.mixup=0.8", "callbacks.best.monitor=train/accuracy"],
            "monitoring_mixed_images",
        ),
        (["augment.mixing.mixup=0.8", "data.batch_size=1"], "mixing_alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_command_that_will_not_work_is_warned_of(overrides, rule):
    assert rule in rules_of(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.01"],
        ["trainer.max_steps=100"],
        ["trainer.max_steps=801", "trainer.max_epochs=null"],
        ["optimizer=sgd"],  # its own default is the usual then
        ["model.embed_layer=conv_stem", "model.pos_embed=none"],
        ["average=ema"],  # its warm-up forgets the start
        ["average=swa", "scheduler.final=0.1"],
        ["average=swa", "scheduler=constant"],
        ["average=swa", "scheduler=wsd", "scheduler.cooldown=0"],
        ["optimizer=schedule_free", "scheduler=constant"],
        ["optimizer=schedule_free", "scheduler=inverse_sqrt"],
        ["optimizer=timm", "optimizer.name=sgd", "optimizer.lr=0.1"],  # the usual is lamb's
        ["loss=bce", "augment.mixing.mixup=0.8"],
        ["loss=focal", "augment.mixing.mixup=0.8"],
        ["data.batch_size=256", "lr_scaling=linear", "lr_batch_size=64"],
    ],
    ids=" ".join,
)
def test_a_command_that_works_is_left_in_peace(overrides):
    assert rules_of(*overrides) == set()


def read_digits(*overrides: str) -> ImageData:
    cfg = to_plain(compose("train", ["run_dir=x", *overrides]))
    data = build({**cfg["data"], "augment": cfg["augment"]})
    data.setup("fit")
    return data


@pytest.mark.parametrize("total_steps", [15, 2_000, 25_000, 3_000_000])
def test_the_decay_that_is_proposed_is_accepted_and_ends_the_warning(total_steps):
    plan = replace(SOUND, total_steps=total_steps, warmup_steps=0, average_memory=1e7)
    (concern,) = check_plan(plan)
    decay = float(re.search(r"average\.decay=([\d.]+)", concern.message)[1])
    cfg = to_plain(compose("train", ["average=ema", f"average.decay={decay}"]))
    build(cfg["average"])(nn.Linear(1, 1), total_steps=total_steps, steps_per_epoch=1)
    memory = ema_memory(decay, warmup=False)
    assert check_plan(replace(plan, average_memory=memory)) == []


def test_weights_of_timms_own_are_no_start_from_scratch(monkeypatch):
    """Without a network, so that the net is any."""
    monkeypatch.setitem(globals(), "build_net", lambda cfg: nn.Linear(1, 1))
    words = ["model=timm", "model.name=resnet10t", "data=fake", "data.num_classes=3"]
    assert plan_for(*words).from_scratch
    assert not plan_for(*words, "model.pretrained=true").from_scratch


def test_enlarged_and_mirrored_images_are_seen():
    words = ["model=vit_ti16", "model.img_size=64", "augment.hflip=0.5"]
    said = check_plan(plan_for(*words, data=read_digits(*words)))
    assert {concern.rule for concern in said} == {"enlarged_images", "mirrored_classes"}


def test_progressive_sizes_and_flexible_patches_count_with_the_fewest_tokens():
    words = ["model=vit_ti4", "model.img_size=16"]
    flexible = [*words, "model.flexi_patch_sizes=[2,8]"]
    plan = plan_for(*flexible, data=read_digits(*flexible))
    assert plan.token_counts == {"model.patch_size": 16, "model.flexi_patch_sizes": 4}
    growing = [
        *(*words, "model.dynamic_img_size=true"),
        *("augment.progressive.sizes=[8]", "augment.progressive.until=[0.5]"),
    ]
    plan = plan_for(*growing, data=read_digits(*growing))
    assert plan.token_counts == {"model.patch_size": 16, "augment.progressive.sizes": 4}
    assert plan.tokens == 4


def test_the_usual_rate_is_that_of_the_groups_and_not_of_single_values():
    usual = usual_choice("train", ["optimizer=adamw", "optimizer.lr=7", "data.batch_size=9"])
    assert usual == {"lr": 1e-3, "batch_size": 64, "rule": "sqrt"}
    assert usual_choice("train", ["optimizer=sgd"])["rule"] == "linear"
    assert usual_choice("train", ["optimizer=sam"])["rule"] == "linear"
    around_adam = ["optimizer=sam", "optimizer@optimizer.base=adamw"]
    assert usual_choice("train", around_adam) == {"lr": 1e-3, "batch_size": 64, "rule": "sqrt"}
    assert usual_choice("train", [*around_adam, "optimizer.base._target_=x"])["lr"] is None


def test_the_usual_rate_follows_the_batch_by_the_square_root_for_adam_and_its_kin():
    plan = plan_for("optimizer=adamw", "data.batch_size=256")
    assert plan.usual_lr == pytest.approx(1e-3 * 2)  # four times the 64 of the digits


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["scheduler.final=0.25"], 0.25),
        (["scheduler=constant"], 1.0),
        (["scheduler=inverse_sqrt", "scheduler.warmup=0", "scheduler.timescale=800"], 0.5**0.5),
        (["scheduler.warmup=50ep"], 1.0),  # it never comes to fall
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_where_a_schedule_ends_is_told_as_a_share_of_its_peak(words, share):
    plan = plan_for(*words)
    assert plan.total_steps == 800 and plan.last_lr_share == pytest.approx(share)


def test_the_memory_of_an_average_is_the_mean_age_of_what_it_holds():
    """Against the weights of each step in the average, added up."""
    kinds = ((0.9, False, 400), (0.99, True, 400), (0.9999, True, 400), (0.9999, True, 5))
    for decay, warmup, steps in kinds:
        weights = []
        for step in range(1, steps + 1):
            kept = min(decay, (1 + step) / (10 + step)) if warmup else decay
            weights = [weight * kept for weight in weights] + [1 - kept if step > 1 else 1.0]
        age = sum(weight * (steps - i) for i, weight in enumerate(weights))
        memory = ema_memory(decay, warmup)
        if warmup:
            assert memory is None, "no run of five steps or more is too short"
            assert age < steps * LONGEST_MEMORY
        else:
            assert age * (1 - 1e-9) <= memory <= 1.6 * age


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["lora.targets=[attn.qkv]"], {"lora.targets": "lora.rank=8"}),
        (["lr_batch_size=512"], {"lr_batch_size": "lr_scaling=sqrt"}),
        (["lr_batch_size=512", "lr_scaling=linear"], {}),
        (["method=distill", "method.temperature=2"], {"method.temperature": "method.kind=soft"}),
        (["method=distill", "method.temperature=2", "method.kind=soft"], {}),
    ],
)
def test_typed_options_that_do_nothing_are_told(words, idle):
    assert plan_for(*words).idle == idle


def test_validation_that_is_switched_off_is_told_from_a_lack_of_images():
    off = rules_and_messages("trainer.limit_val_batches=0")
    assert "trainer.limit_val_batches=0" in off["no_validation"]
    assert "data.val_share" not in off["no_validation"]


def test_an_average_that_warms_up_is_not_too_slow_for_a_run_of_three_steps():
    words = ["average=ema", "trainer.max_steps=3", "scheduler.warmup=0"]
    assert "slow_average" not in rules_of(*words)
    assert "slow_average" in rules_of(*words, "average.warmup=false")


def test_losses_that_take_shares_are_told_from_those_that_take_labels():
    assert takes_soft_targets(nn.CrossEntropyLoss(label_smoothing=0.1))
    assert not takes_soft_targets(nn.MultiMarginLoss())
    assert not takes_soft_targets(nn.NLLLoss())

"""The recipes of papers: their numbers are the papers', and each trains the model it is for."""

import math
import re
import shlex
from pathlib import Path

import pytest
import torch
import torchvision
import torchvision.transforms.v2 as T
from timm.data import auto_augment, create_transform

from vitfw.assemble import build_learner, build_net, resolve_trainer
from vitfw.building import build
from vitfw.config import compose, flatten, to_plain
from vitfw.data.augment.batch_policy import ThreeAugment
from vitfw.data.augment.batch_spaces import SPACES, fill_levels
from vitfw.data.transforms import normalise
from vitfw.training.lr_scaling import scaled_lr
from vitfw.training.weight_average import ema

ROOT = Path(__file__).parents[1]
ADAMW = "vitfw.training.optimizers.adamw"
CROSS_ENTROPY = "vitfw.training.losses.CrossEntropy"
# Table 9 of DeiT and the defaults of its code; DeiT III's command for ViT-S on ImageNet-1k;
# torchvision's command for vit_b_16; big_vision's vit_s16_i1k; cct_7-3x1_cifar10_300epochs.yml.
# `lr` at batches of `batch`; warm-up in epochs or steps; `policy` as the commands spell it, or
# the jitter of 3-Augment.
PUBLISHED = {
    "deit": {
        "optimizer": ADAMW,
        "lr": 5e-4 * 1024 / 512,
        "batch": 1024,
        "decay": 0.05,
        "epochs": 300,
        "warmup": "5ep",
        "last_lr": 1e-5,
        "clip": None,
        "loss": CROSS_ENTROPY,
        "smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "off": 0.0,
        "policy": "rand-m9-mstd0.5-inc1",
        "crop": 0.08,
        "erase": 0.25,
        "repeats": 3,
        "drop_path": 0.1,
        "ema": 0.99996,
    },
    "deit3": {
        "optimizer": "vitfw.training.optimizers.lamb",
        "lr": 4e-3,
        "batch": 256 * 8,
        "decay": 0.05,
        "epochs": 800,
        "warmup": "5ep",
        "last_lr": 1e-5,
        "clip": None,
        "loss": "vitfw.training.losses.BinaryCrossEntropy",
        "smoothing": 0.0,
        "mixup": 0.8,
        "cutmix": 1.0,
        "off": 0.0,
        "policy": 0.3,
        "crop": 0.08,
        "erase": 0.0,
        "repeats": 3,
        "drop_path": 0.05,
        "ema": None,
    },
    "torchvision": {
        "optimizer": ADAMW,
        "lr": 3e-3,
        "batch": 512 * 8,
        "decay": 0.3,
        "epochs": 300,
        "warmup": "30ep",
        "last_lr": 0.0,
        "clip": 1.0,
        "loss": CROSS_ENTROPY,
        "smoothing": 0.11,
        "mixup": 0.2,
        "cutmix": 1.0,
        "off": 0.0,
        "policy": "ra",
        "crop": 0.08,
        "erase": 0.0,
        "repeats": 3,
        "drop_path": 0.0,
        "ema": (1 - (1 - 0.99998) * 4096 * 32 / 300) ** (1 / 32),
    },
    "scratch_imagenet_plain": {
        "optimizer": ADAMW,
        "lr": 1e-3,
        "batch": 1024,
        "decay": 1e-4 / 1e-3,
        "epochs": 90,
        "warmup": 10_000,
        "last_lr": 0.0,
        "clip": 1.0,
        "loss": CROSS_ENTROPY,
        "smoothing": 0.0,
        "mixup": 0.2,
        "cutmix": 0.0,
        "off": 0.0,
        "policy": "randaug(2,10)",
        "crop": 0.05,
        "erase": 0.0,
        "repeats": 1,
        "drop_path": 0.0,
        "ema": None,
    },
    "cct": {
        "optimizer": ADAMW,
        "lr": 55e-5,
        "batch": 128,
        "decay": 6e-2,
        "epochs": 300 + 10,
        "warmup": "10ep",
        "last_lr": 1e-5,
        "clip": None,
        "loss": CROSS_ENTROPY,
        "smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "off": 1 - 175 / 310,
        "policy": "rand-m9-mstd0.5-inc1",
        "crop": 0.8,
        "erase": 0.0,
        "repeats": 1,
        "drop_path": 0.1,
        "ema": None,
    },
}
# `available_ops` of google-research/big_vision, big_vision/pp/autoaugment.py.
BIG_VISION_OPERATIONS = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"),
    "SolarizeAdd",
]
MODELS = {  # what each is for, shrunk, with images that it can cut
    "deit": ["model=deit_s16", "model.img_size=64"],
    "deit3": ["model=deit3_s16", "model.img_size=64"],
    "torchvision": ["model=vit_b16", "model.img_size=64"],
    "scratch_imagenet_plain": ["model=simple_s16", "model.img_size=64"],
    "cct": ["model=cct7_3x1", "model.img_size=16"],
}
SHRUNK = ["model.depth=1", "model.embed_dim=32", "model.num_heads=2"]
FAKE = ["data=fake", "data.num_images=40", "data.batch_size=4", "data.num_classes=5"]


def configured(*words: str) -> dict:
    return to_plain(compose("train", ["run_dir=x", *words]))


def policy_of(policy: dict) -> float | dict:
    built = build(policy)
    if isinstance(built, ThreeAugment):
        return built.jitter
    return {
        "operations": list(SPACES[built.operations]),
        "num_ops": built.num_ops,
        "probability": built.probability,
        "magnitude": built.magnitude,
        "magnitude_std": built.magnitude_std,
        "highest": built.highest,
    }


def published_policy(spelled: str | float) -> float | dict:
    """What timm and torchvision make of the words, and big_vision's source of its own."""
    if isinstance(spelled, float):
        return spelled
    if spelled == "ra":  # references/classification/presets.py, with ra_magnitude=9
        theirs = T.RandAugment(magnitude=9)
        return {
            "operations": list(theirs._AUGMENTATION_SPACE),
            "num_ops": theirs.num_ops,
            "probability": 1.0,
            "magnitude": theirs.magnitude,
            "magnitude_std": 0.0,
            "highest": theirs.num_magnitude_bins - 1,
        }
    if numbers := re.fullmatch(r"randaug\((\d+),(\d+)\)", spelled):
        return {
            "operations": BIG_VISION_OPERATIONS,
            "num_ops": int(numbers[1]),
            "probability": 1.0,
            "magnitude": int(numbers[2]),
            "magnitude_std": 0.0,
            "highest": 10,  # _MAX_LEVEL
        }
    theirs = auto_augment.rand_augment_transform(spelled, {})
    (common,) = {(op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) for op in theirs.ops}
    probability, magnitude, magnitude_std, highest = common
    return {
        "operations": [operation.name for operation in theirs.ops],
        "num_ops": theirs.num_layers,
        "probability": probability,
        "magnitude": magnitude,
        "magnitude_std": magnitude_std,
        "highest": highest or auto_augment._LEVEL_DENOM,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_numbers_are_the_published_ones(name):
    cfg = configured(f"recipe={name}", *MODELS[name], "data=imagenet")
    augment, optimizer, loss = cfg["augment"], cfg["optimizer"], cfg["loss"]
    lr = scaled_lr(
        optimizer["lr"], cfg["lr_scaling"], PUBLISHED[name]["batch"], cfg["lr_batch_size"]
    )
    given = {
        "optimizer": optimizer["_target_"],
        "lr": lr,
        "batch": cfg["lr_batch_size"],
        "decay": optimizer["weight_decay"],
        "epochs": cfg["trainer"]["max_epochs"],
        "warmup": cfg["scheduler"]["warmup"],
        "last_lr": lr * cfg["scheduler"]["final"],
        "clip": cfg["trainer"]["gradient_clip_val"],
        "loss": loss["_target_"],
        "smoothing": loss["label_smoothing"],
        "mixup": augment["mixing"]["mixup"],
        "cutmix": augment["mixing"]["cutmix"],
        "off": augment["mixing"]["off_share"],
        "policy": policy_of(augment["policy"]),
        "crop": augment["crop_scale"][0],
        "erase": augment["erase"],
        "repeats": augment["repeats"],
        "drop_path": cfg["model"]["drop_path_rate"],
        "ema": cfg["average"].get("decay"),
    }
    published = {**PUBLISHED[name], "policy": published_policy(PUBLISHED[name]["policy"])}
    for numbers in (given, published):  # a decay is told by how far it is from 1
        numbers["ema"] = numbers["ema"] and 1 - numbers["ema"]
    for key, value in published.items():
        numeric = isinstance(value, float)
        assert given[key] == (pytest.approx(value, rel=1e-3) if numeric else value), key
    assert given.keys() == published.keys()
    assert cfg["scheduler"]["_target_"].endswith(".cosine")
    assert augment["hflip"] == 0.5 and augment["crop_scale"][1] == 1.0


@pytest.mark.parametrize("name, data", [("deit", "imagenet"), ("cct", "cifar10")])
def test_blanks_are_of_the_mean_colour_that_timm_fills_with(name, data):
    cfg = configured(f"recipe={name}", *MODELS[name], f"data={data}")
    transform = create_transform(
        224, is_training=True, auto_augment=PUBLISHED[name]["policy"], mean=cfg["data"]["mean"]
    )
    (theirs,) = (t for t in transform.transforms if isinstance(t, auto_augment.RandAugment))
    ours = fill_levels(build(cfg["augment"]["policy"]).shares, 3, torch.device("cpu"))
    assert tuple(ours.flatten().tolist()) == theirs.ops[0].kwargs["fillcolor"]


def test_the_command_of_the_plain_recipe_shows_images_from_minus_one_to_one():
    head = (ROOT / "configs/recipe/scratch_imagenet_plain.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^#   python train.py (.*)$", head, re.MULTILINE)
    data = configured(*shlex.split(command))["data"]
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    shown = normalise(extremes, torch.tensor(data["mean"]), torch.tensor(data["std"]))
    assert shown.unique().tolist() == pytest.approx([-1.0, 1.0])


def test_torchvisions_head_and_tokens_start_as_theirs():
    words = ["recipe=torchvision", *MODELS["torchvision"], "model.weight_init=vit"]
    cfg = configured(*words, "model.depth=1", "data=imagenet")
    ours = build_net(cfg)
    theirs = torchvision.models.VisionTransformer(64, 16, 1, 12, 768, 3072)
    assert not theirs.heads.head.weight.any() and not ours.head.weight.any()
    assert not theirs.class_token.any() and not ours.cls_token.any()
    for name, one in {
        "patch_embed.proj.weight": theirs.conv_proj.weight,
        "pos_embed": theirs.encoder.pos_embedding,
        "blocks.0.mlp.fc1.weight": theirs.encoder.layers[0].mlp[0].weight,
        "blocks.0.mlp.fc1.bias": theirs.encoder.layers[0].mlp[0].bias,
    }.items():
        drawn = ours.get_parameter(name)
        assert drawn.std().item() == pytest.approx(one.std().item(), rel=0.15), name


def test_torchvisions_average_forgets_as_fast_here():
    """Once in 32 steps by its decay, or every step by ours: the same after an epoch."""
    theirs = 1 - (1 - 0.99998) * 4096 * 32 / 300
    ours = configured("recipe=torchvision")["average"]["decay"]
    assert math.log(ours) * 320 == pytest.approx(math.log(theirs) * 10, rel=1e-3)
    assert ema(torch.nn.Linear(1, 1), 10, 10, decay=ours).share(10**6) == pytest.approx(1 - ours)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_chooses_no_data(name):
    plain, chosen = configured(), configured(f"recipe={name}")
    assert chosen["data"] == plain["data"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_trains_a_step_of_the_model_it_is_for(name):
    cfg = configured(f"recipe={name}", *MODELS[name], *SHRUNK, *FAKE)
    data = build({**cfg["data"], "augment": cfg["augment"]})
    data.setup("fit")
    options = resolve_trainer({**cfg["trainer"], "accelerator": "cpu"})
    net = build_net(cfg)
    learner = build_learner(cfg, net, data, options)
    images, targets = data.prepare_training(next(iter(data.train_dataloader())))
    optimizer = learner.make_optimizer(net)
    before = net.head.weight.detach().clone()
    value = learner.loss(net(images).float(), targets)
    value.backward()
    optimizer.step()
    assert value.isfinite()
    assert not torch.equal(net.head.weight, before)


def test_the_page_lists_every_recipe():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    recipes = {path.stem for path in (ROOT / "configs" / "recipe").glob("*.yaml")}
    assert [name for name in sorted(recipes) if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_recipe_sets_exists_without_it(name):
    """No recipe brings a key of its own: what it sets, anybody can set."""
    chosen = flatten(configured(f"recipe={name}"))
    groups = [f"{key}={value}" for key, value in GROUPS_OF[name].items()]
    assert set(chosen) == set(flatten(configured(*groups)))


GROUPS_OF = {
    "deit": {"augment": "deit", "optimizer": "adamw", "average": "ema"},
    "deit3": {"augment": "deit3", "optimizer": "lamb", "loss": "bce"},
    "torchvision": {"augment": "randaugment", "optimizer": "adamw", "average": "ema"},
    "scratch_imagenet_plain": {"augment": "randaugment", "optimizer": "adamw"},
    "cct": {"augment": "randaugment", "optimizer": "adamw"},
}

"""Write docs/model_family.md: every model of configs/model with its size, cost and source.

python scripts/model_table.py
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn

from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.models.profile import count_flops

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "model"
PAGE = ROOT / "docs" / "model_family.md"
OF_ANOTHER_NAME = ("timm",)  # stands for many models
SMALL_SIZE = 32  # at which the models are measured that follow the data

HEAD = """# The model family

Written by `python scripts/model_table.py` from `configs/model/*.yaml`; a test compares the two.
`model=NAME` trains one of them, and every option can be changed:
`model=deit3_b16 model.patch_size=14`, `model=dinov2_b14 model.img_size=224`,
`model=siglip_b16 model.img_size=384`. `docs/models.md` explains the options. The plain ViT is
here with every size and patch, the variants in the combinations that were published. Another is a
new file of two lines, as sizes and variants are fragments: `defaults: [_base, _g, _deit3, _self_]`
and `patch_size: 14` make a DeiT III of size g.

Parameters are the learned ones, with the head. GFLOPs are those of one image's forward pass, a
multiplication and an addition counted as two; papers that count them as one give half as much.
Peers are the same model in other libraries: tests compare parameters with all of them, and logits
with timm's.

`model=timm model.name=resnet18` trains any architecture of timm's in the same loop,
`model.pretrained=true` from timm's weights. Options of the architecture follow a plus:
`+model.drop_path_rate=0.1`.
"""
LARGE = """
## At 224 px and more

3 channels, 1,000 classes.

| `model=` | what | px | parameters | GFLOPs | source | peers |
|---|---|---|---|---|---|---|
"""
SMALL = """
## At the size of the data

Here: 32 px, 3 channels, 10 classes.

| `model=` | what | px | parameters | GFLOPs | source | peers |
|---|---|---|---|---|---|---|
"""


class Told(NamedTuple):
    """What the head of a model's file says."""

    what: str
    source: str
    peers: dict[str, str]  # library → its name of the same model


def names() -> list[str]:
    """All models that `model=` takes, the one of many names left out."""
    found = sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))
    return [name for name in found if name not in OF_ANOTHER_NAME]


def told(name: str) -> Told:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    what, _, source = head[0].partition(". ")
    peers = [line for line in head if line.startswith(("timm: ", "torchvision: "))]
    named: dict[str, str] = {}
    for pair in ", ".join(peers).split(", ") if peers else ():
        library, _, peer = pair.partition(": ")
        named[library] = peer
    return Told(what, source.removesuffix("."), named)


@cache
def composed(name: str) -> DictConfig:
    data = ["+data.num_classes=1000", "+data.channels=3", f"+data.native_size={SMALL_SIZE}"]
    return compose(f"model/{name}", data)


def follows_the_data(name: str) -> bool:
    """The net is as large as the images are, not as the file says."""
    return isinstance(to_plain(composed(name), resolve=False)["model"]["img_size"], str)


def options(name: str) -> dict:
    """The arguments of the net: for 1,000 classes, or for ten where the data decide the size."""
    classes = 10 if follows_the_data(name) else 1000
    return {**to_plain(composed(name))["model"], "num_classes": classes}


def on_meta(model: dict) -> nn.Module:
    with torch.device("meta"):
        return build(model)


@cache
def net_of(name: str) -> nn.Module:
    return on_meta(options(name))


def learned(name: str) -> int:
    return sum(p.numel() for p in net_of(name).parameters() if p.requires_grad)


def flops(model: dict) -> int:
    """FLOPs of one image; each block costs what the first one does."""
    size = model["img_size"]
    one, two = (count_flops(on_meta({**model, "depth": n}), (3, size, size)) for n in (1, 2))
    return one + (model["depth"] - 1) * (two - one)


def row(name: str) -> str:
    what, source, peers = told(name)
    model = options(name)
    count, cost = f"{learned(name):,}", f"{flops(model) / 1e9:,.2f}"
    same = ", ".join(f"{library} `{peer}`" for library, peer in peers.items())
    cells = [f"`{name}`", what, str(model["img_size"]), count, cost, source, same]
    return "| " + " | ".join(cells) + " |\n"


def page() -> str:
    """The whole text of docs/model_family.md."""
    rows = {name: row(name) for name in sorted(names(), key=order)}
    small = [text for name, text in rows.items() if follows_the_data(name)]
    large = [text for name, text in rows.items() if not follows_the_data(name)]
    return HEAD + LARGE + "".join(large) + SMALL + "".join(small)


def order(name: str) -> tuple:
    model = options(name)
    family = name.partition("_")[0]
    return (family != "vit", family, model["embed_dim"] * model["depth"], model["patch_size"], name)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""The table of parameter groups: what it counts, and that it fits a terminal."""

import re

import torch
from rich.console import Console

from vitfw.models.vit import VisionTransformer
from vitfw.training.group_table import group_table
from vitfw.training.optimizers import adamw, muon, sam

DEIT_TI = {"embed_dim": 192, "depth": 12, "num_heads": 3}
FIELDS = ("group", "tensors", "parameters", "lr", "decay", "by")


def lines_of(optimizer: torch.optim.Optimizer, width: int = 80) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(group_table(optimizer))
    return capture.get().splitlines()


def rows_of(optimizer: torch.optim.Optimizer) -> list[dict[str, str]]:
    rows = [re.split(r"  +", line.strip()) for line in lines_of(optimizer)]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows if len(row) == 6][1:]


def test_muon_and_what_steps_the_rest_are_told_apart():
    with torch.device("meta"):
        net = VisionTransformer(**DEIT_TI)
    matrices = 12 * (4 * 192 * 192 + 2 * 192 * 768)
    ours = {row["group"]: row for row in rows_of(muon(net, lr=3e-3, weight_decay=0.05))}
    assert ours["muon"] == {
        "group": "muon",
        "tensors": "48",
        "parameters": f"{matrices:,}",
        "lr": "0.003",
        "decay": "0.05",
        "by": "Muon",
    }
    assert ours["decay"]["by"] == ours["no_decay"]["by"] == "NAdamW"
    assert ours["no_decay"]["decay"] == "0"
    rest = sum(int(ours[name]["parameters"].replace(",", "")) for name in ("decay", "no_decay"))
    assert matrices + rest == 5_717_416  # published for DeiT-Ti
    assert {row["by"] for row in rows_of(muon(net, nesterov=False))} == {"Muon", "AdamW"}


def test_the_lr_is_the_peak_also_after_a_schedule_has_begun():
    net = torch.nn.Linear(2, 2)
    optimizer = adamw(net, lr=0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.01)
    assert {row["lr"] for row in rows_of(optimizer)} == {"0.5"}


def test_sam_names_its_base():
    assert {row["by"] for row in rows_of(sam(torch.nn.Linear(2, 2)))} == {"SAM, SGD"}


def test_it_fits_80_columns_with_layers_and_long_patterns():
    with torch.device("meta"):
        net = VisionTransformer(embed_dim=1024, depth=24, num_heads=16)
    pattern = "blocks.[12]*.attn.*.weight"
    optimizer = sam(net, muon, layer_decay=0.65, overrides={pattern: {"lr_scale": 0.1}})
    lines = lines_of(optimizer)
    assert max(map(len, lines)) <= 80
    text = "".join("".join(line.split()) for line in lines)
    assert "layer_24_muon" in text and "[12]" in text and "…" not in text

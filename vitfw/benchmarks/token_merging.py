"""What merging tokens costs and gains: accuracy and images per second for each `tome_r`.

Evaluates a checkpoint on the validation images of its data set with 0, 1, 2, … tokens merged in
every block. The speeds are medians of turns taken in rotation.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from vitfw.assemble import build_data
from vitfw.benchmarks.turns import milliseconds
from vitfw.errors import ConfigError
from vitfw.inference import load_net
from vitfw.models.profile import count_flops
from vitfw.models.vit import VisionTransformer
from vitfw.training.precision import best_precision

RESULT = "token_merging"


def logits_of(net: VisionTransformer, images: Tensor, tome_r: int) -> Tensor:
    net.tome_r = tome_r
    half = best_precision(images.device.type).startswith("bf16")
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        return net(images).float()


def measure(
    device: torch.device, checkpoint: str | None, batch_size: int, turns: int, steps: int
) -> dict[str, Any]:
    """Accuracy, FLOPs and speed with `steps` numbers of merged tokens, from none upwards.

    Raises:
        ConfigError: there is no checkpoint, or it is of a net that merges no tokens.
    """
    if checkpoint is None:
        raise ConfigError(
            "suite=token_merging needs a checkpoint: give checkpoint=runs/…/checkpoints/best.ckpt"
        )
    net, passport = load_net(Path(checkpoint).expanduser())
    if not isinstance(net, VisionTransformer):
        raise ConfigError(
            f"checkpoint={checkpoint} is a {type(net).__name__}; only vitfw's VisionTransformer "
            "merges tokens"
        )
    net = net.to(device)
    data = build_data(passport.config)
    batches = [
        tuple(part.to(device) for part in data.prepare_evaluation(batch))
        for batch in data.val_dataloader()
    ]
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    size = (images.shape[1], images.shape[2], images.shape[3])
    most = net.patch_embed.num_patches // 2
    numbers = sorted({round(most * step / steps) for step in range(steps)})
    rows = []
    for r in numbers:
        parts = [logits_of(net, part, r).argmax(dim=1) for part in images.split(batch_size)]
        accuracy = (torch.cat(parts) == labels).float().mean().item()
        rows.append({"tome_r": r, "accuracy": accuracy, "flops": count_flops(net, size)})
    first = images[:batch_size]
    calls = {str(r): partial(logits_of, net, first, r) for r in numbers}
    times = milliseconds(calls, turns, device)
    for row in rows:
        time = times[str(row["tome_r"])]
        row |= {"images_per_second": len(first) / time * 1e3, "speed_up": times["0"] / time}
    model = passport.config["model"]
    what = (
        f"accuracy on the {len(images)} validation images of {data.dataset_name} and speed with "
        f"tome_r tokens merged in every block: {model['depth']} blocks of width "
        f"{model['embed_dim']}, {net.patch_embed.num_patches} tokens"
    )
    return {"what": what, "rows": rows}


def table(figures: dict[str, Any]) -> Table:
    table = Table("tome_r", "accuracy", "FLOPs", "images / s", "speed-up")
    whole = figures["rows"][0]["flops"]
    for row in figures["rows"]:
        table.add_row(
            str(row["tome_r"]),
            f"{row['accuracy']:.4f}",
            f"{row['flops'] / whole:.0%}",
            f"{row['images_per_second']:.0f}",
            f"{row['speed_up']:.2f}",
        )
    return table

"""What merging tokens costs and gains: accuracy and images per second for each `tome_r`.

    python benchmarks/token_merging.py runs/…/checkpoints/best.ckpt

Evaluates a checkpoint on the validation images of its data set with 0, 1, 2, … tokens merged in
every block. The speeds are medians of turns taken in rotation. The result is printed and stored as
JSON.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from record import store
from rich.table import Table
from torch import Tensor

from vitfw.assemble import build_data
from vitfw.console import console
from vitfw.inference import load_net
from vitfw.memory import keep_freed_memory
from vitfw.models.profile import count_flops
from vitfw.models.vit import VisionTransformer
from vitfw.training.precision import best_precision

BATCH = 256
TURNS = 5
STEPS = 8


def logits_of(net: VisionTransformer, images: Tensor) -> Tensor:
    half = best_precision(images.device.type).startswith("bf16")
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        return net(images).float()


def seconds(net: VisionTransformer, images: Tensor) -> float:
    began = time.perf_counter()
    logits_of(net, images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, passport = load_net(Path(sys.argv[1]))
    if not isinstance(net, VisionTransformer):
        print("only a VisionTransformer merges tokens", file=sys.stderr)
        return 2
    net = net.to(device)
    data = build_data(passport.config)
    batches = [
        tuple(part.to(device) for part in data.prepare_evaluation(batch))
        for batch in data.val_dataloader()
    ]
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    most = net.patch_embed.num_patches // 2
    ratios = sorted({round(most * step / STEPS) for step in range(STEPS)})
    accuracy, flops, times = {}, {}, {r: [] for r in ratios}
    for r in ratios:
        net.tome_r = r
        found = torch.cat([logits_of(net, part).argmax(dim=1) for part in images.split(BATCH)])
        accuracy[r] = (found == labels).float().mean().item()
        flops[r] = count_flops(net, (images.shape[1], images.shape[2], images.shape[3]))
    for _ in range(TURNS):
        for r in ratios:
            net.tome_r = r
            times[r].append(seconds(net, images[:BATCH]))
    table = Table("tome_r", "accuracy", "FLOPs", "images / s", "speed-up")
    rows = []
    for r in ratios:
        speed = min(BATCH, len(images)) / statistics.median(times[r])
        gain = statistics.median(times[0]) / statistics.median(times[r])
        row = {"tome_r": r, "accuracy": accuracy[r], "flops": flops[r], "images_per_second": speed}
        rows.append({**row, "speed_up": gain})
        share = f"{flops[r] / flops[0]:.0%}"
        table.add_row(str(r), f"{accuracy[r]:.4f}", share, f"{speed:.0f}", f"{gain:.2f}")
    console.print(table)
    model = passport.config["model"]
    what = (
        f"accuracy on the {len(images)} validation images of {data.dataset_name} and speed with "
        f"tome_r tokens merged in every block: {model['depth']} blocks of width "
        f"{model['embed_dim']}, {net.patch_embed.num_patches} tokens"
    )
    store("token_merging", {"what": what, "rows": rows}, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())

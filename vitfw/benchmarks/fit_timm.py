"""The peer timm: its ViT, its loader, optimizer and schedule, in the loop of its train.py."""

import sys
from pathlib import Path

import timm
import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from vitfw.benchmarks.fit_peers import Order, PilImages, Progress, autocast, run

SMOOTHING, COLOR_JITTER, HFLIP, WARMUP_LR = 0.1, 0.4, 0.5, 1e-5  # the defaults of its train.py


def versions() -> dict[str, str]:
    return {"timm": timm.__version__}


def train(data: PilImages, order: Order, total_steps: int, progress: Progress) -> None:
    """vit_tiny_patch16_224, made as small as `order` says, with AdamW, warm-up and a cosine."""
    torch.manual_seed(order.seed)
    net = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=order.img_size,
        patch_size=order.patch_size,
        embed_dim=order.embed_dim,
        depth=order.depth,
        num_heads=order.num_heads,
        in_chans=order.channels,
        num_classes=order.num_classes,
    ).to(order.device)
    loader = create_loader(
        data,  # pyrefly: ignore[bad-argument-type]  # it asks for `transform` alone
        input_size=(order.channels, *order.img_size),
        batch_size=order.batch_size,
        is_training=True,
        scale=(order.crop_scale[0], order.crop_scale[1]),
        hflip=HFLIP,
        color_jitter=COLOR_JITTER,
        interpolation="random",
        mean=tuple(order.mean),
        std=tuple(order.std),
        num_workers=order.workers,
        persistent_workers=order.workers > 0,
        use_prefetcher=order.device == "cuda",
        pin_memory=order.device == "cuda",
        device=torch.device(order.device),
    )
    optimizer = create_optimizer_v2(net, "adamw", lr=order.lr, weight_decay=order.weight_decay)
    schedule, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=total_steps,  # an «epoch» of one update
        warmup_epochs=order.warmup_steps(total_steps),
        warmup_lr=WARMUP_LR,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    criterion = LabelSmoothingCrossEntropy(SMOOTHING)
    net.train()
    step = 0
    progress.begin()
    while True:
        for images, labels in loader:
            images, labels = images.to(order.device), labels.to(order.device)
            with autocast(order):
                loss = criterion(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
            if progress.after_step(net, step):
                return


if __name__ == "__main__":
    run(Path(sys.argv[1]), train, versions())

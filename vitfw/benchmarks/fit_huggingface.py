"""The peer Hugging Face: ViTForImageClassification and its Trainer."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from vitfw.benchmarks.fit_peers import Order, PilImages, Progress, run


class ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        net: nn.Module = kwargs["model"]
        if self.progress.after_step(net, state.global_step):
            control.should_training_stop = True


def versions() -> dict[str, str]:
    return {"transformers": transformers.__version__}


def augmentation(order: Order) -> v2.Compose:
    """That of its image-classification example: a random part, mirrored half the time."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(order.img_size, (order.crop_scale[0], order.crop_scale[1])),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(order.mean, order.std),
        ]
    )


def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def train(data: PilImages, order: Order, total_steps: int, progress: Progress) -> None:
    """With its AdamW and its linear schedule after warm-up, the Trainer's own."""
    transformers.set_seed(order.seed)
    data.transform = augmentation(order)
    config = ViTConfig(
        image_size=order.img_size,
        patch_size=order.patch_size,
        num_channels=order.channels,
        hidden_size=order.embed_dim,
        num_hidden_layers=order.depth,
        num_attention_heads=order.num_heads,
        intermediate_size=4 * order.embed_dim,
        num_labels=order.num_classes,  # pyrefly: ignore[unexpected-keyword]
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=total_steps,
            per_device_train_batch_size=order.batch_size,
            learning_rate=order.lr,
            weight_decay=order.weight_decay,
            warmup_steps=order.warmup_steps(total_steps),
            bf16=order.bf16,
            use_cpu=order.device == "cpu",
            dataloader_num_workers=order.workers,
            remove_unused_columns=False,
            seed=order.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(
            model=ViTForImageClassification(config),
            args=arguments,
            data_collator=collate,
            train_dataset=data,
            callbacks=[ProgressCallback(progress)],
        ).train()


if __name__ == "__main__":
    run(Path(sys.argv[1]), train, versions())

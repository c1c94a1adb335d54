"""The images that all contestants of `suite=fit` get, and the peers' order for them."""

from typing import Any

import torch
from torch import Tensor

from vitfw.benchmarks.fit_peers import Order
from vitfw.benchmarks.fit_request import Request
from vitfw.data.classification_data import ClassificationData
from vitfw.data.datamodule import ImageData
from vitfw.data.images import ArrayImages
from vitfw.errors import ConfigError
from vitfw.training.precision import best_precision


def images_of(data: ClassificationData) -> dict[str, Tensor]:
    """Training images as they are, validation images as a model takes them.

    Raises:
        ConfigError: they are files or a stream: then the peers would be given something else.
    """
    train = data.images("train") if isinstance(data, ImageData) else None
    if not isinstance(train, ArrayImages):
        raise ConfigError(
            f"suite=fit needs images that are held in memory, not {data.dataset_name}'s; "
            "data=fashion_mnist and data=cifar10 are, data.resident=true makes them be"
        )
    batches = [data.prepare_evaluation(batch) for batch in data.val_dataloader()]
    if not batches:
        raise ConfigError("suite=fit needs validation images; data.val_share=0.1 splits them off")
    return {
        "train_images": train.images,
        "train_labels": train.labels,
        "val_images": torch.cat([images for images, _ in batches]),
        "val_labels": torch.cat([labels for _, labels in batches]),
    }


def check_same_images(
    experiment: str, images: dict[str, Tensor], first: str, others: dict[str, Tensor]
) -> None:
    """Raises ConfigError if two experiments are trained or validated on different images."""
    if not all(torch.equal(images[key], others[key]) for key in images):
        raise ConfigError(
            f"fit.experiments: {experiment} has other images than {first}; "
            "measure it in a file of its own: output=FILE.json"
        )


def order_of(data: ClassificationData, device: torch.device, request: Request) -> Order:
    """What the peers are to train, with the first of their schedules.

    Raises:
        ConfigError: a peer's model or batches do not fit the images.
    """
    peer: dict[str, Any] = request.peer
    patch_size, batch_size = peer["patch_size"], peer["batch_size"]
    if any(side % patch_size for side in data.img_size):
        raise ConfigError(
            f"fit.peer.patch_size={patch_size} does not divide images of {data.img_size[0]} px"
        )
    if batch_size > data.train_images:
        raise ConfigError(
            f"fit.peer.batch_size={batch_size} is more than the {data.train_images} training images"
        )
    _, length = request.lengths[0]
    options: dict[str, Any] = {**request.clock, **length, **peer}
    return Order(
        device=device.type,
        bf16=best_precision(device.type) == "bf16-mixed",
        seed=request.seeds[0],
        img_size=tuple(data.img_size),
        channels=data.channels,
        num_classes=data.num_classes,
        mean=list(data.mean),
        std=list(data.std),
        probe_seconds=request.probe_seconds,
        **options,
    )

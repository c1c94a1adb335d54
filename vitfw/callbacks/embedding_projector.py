"""Pooled features of validation images, for TensorBoard's projector.

N images, C channels of an image, D channels of a feature.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from tensorboard.plugins import projector
from torch import Tensor, nn

from vitfw.atomic import replacing, write_text
from vitfw.callbacks.board import boards
from vitfw.callbacks.evaluation_mode import evaluated_net, evaluation_mode
from vitfw.errors import ConfigError
from vitfw.training.pooled_features import classifier_layers, pooled

FOLDER, TAG = "projector", "features"
BATCH = 64  # images that go through the net at once
SMALLEST, LARGEST = 24, 64  # pixels of an image's longer side in the projector


class EmbeddingProjector(L.Callback):
    """When a fit has ended: what enters the classifier of the evaluated net for `count` images
    spread over the validation set, with their classes, to be looked at in the projector.

    The features are float32, in the precision of the weights, and those of two heads side by
    side. They lie beside the event file: `projector_config.pbtxt`, and in `projector/` the
    features, the classes and the images. A net without a classifier by vitfw's or timm's names
    has none, nor a run without validation images.
    """

    def __init__(self, count: int = 512):
        if count < 2:
            raise ValueError(f"callbacks.embedding_projector.count {count} must be at least 2")
        self.count = count

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net = evaluated_net(trainer, pl_module)
        data: Any = getattr(trainer, "datamodule", None)
        found = boards(trainer)
        if not found or net is None or not has_classifier(net) or not hasattr(data, "mean"):
            return
        count = min(self.count, int(data.class_counts("val").sum()))
        if count < 2:
            return
        with evaluation_mode(net):
            try:
                images, labels = data.preview_batch("val", count)
            except ConfigError:  # none can be read: no reason to stop a run
                return
            features = features_of(net, images, data.mean, data.std)
        names = [data.classes[label] for label in labels.tolist()]
        for board in found:
            write_embedding(Path(board.log_dir), features, names, images.cpu())


def has_classifier(net: nn.Module) -> bool:
    try:
        return bool(classifier_layers(net))
    except ValueError:
        return False


def features_of(
    net: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Images [N, C, H, W] in [0, 1] → [N, D] float32 on the CPU."""
    weight = next(net.parameters())
    centre, spread = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    features = []
    for batch in images.split(BATCH):
        batch = ((batch - centre) / spread).to(weight.device, weight.dtype)
        features.append(pooled(net, batch).float().cpu())
    return torch.cat(features)


def write_embedding(folder: Path, features: Tensor, names: Sequence[str], images: Tensor) -> None:
    """The files that the projector reads, for features [N, D] of images [N, C, H, W] in [0, 1]."""
    table, labels, sprite = (
        f"{FOLDER}/{name}" for name in ("features.tsv", "classes.tsv", "images.png")
    )
    with replacing(folder / table) as partial:
        np.savetxt(partial, features.numpy(), fmt="%.9g", delimiter="\t")
    write_text(folder / labels, "".join(f"{' '.join(name.split())}\n" for name in names))
    picture, (height, width) = sprite_of(images)
    with replacing(folder / sprite) as partial:
        picture.save(partial, format="png")
    config = projector.ProjectorConfig()
    entry = config.embeddings.add()
    entry.tensor_name, entry.tensor_path, entry.metadata_path = TAG, table, labels
    entry.sprite.image_path = sprite
    entry.sprite.single_image_dim.extend([width, height])
    projector.visualize_embeddings(str(folder), config)


def sprite_of(images: Tensor) -> tuple[Image.Image, tuple[int, int]]:
    """All images in rows of one square picture, and the height and width of each in it."""
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    longer = max(height, width)
    scale = LARGEST / longer if longer > LARGEST else max(1, math.ceil(SMALLEST / longer))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    columns = math.ceil(math.sqrt(len(images)))
    sprite = Image.new("RGB", (columns * size[0], columns * size[1]))
    arrays = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    for i, array in enumerate(arrays.permute(0, 2, 3, 1).contiguous().numpy()):
        tile = Image.fromarray(array).resize(size, how)
        sprite.paste(tile, (i % columns * size[0], i // columns * size[1]))
    return sprite, (size[1], size[0])

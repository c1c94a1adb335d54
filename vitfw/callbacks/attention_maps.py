"""What the net attends to in validation images, as pictures in TensorBoard and the report."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitfw.attention_pictures import distance_picture, heads_picture, heads_title, rollout_picture
from vitfw.callbacks.board import boards
from vitfw.callbacks.drawing_time import DrawingTime
from vitfw.callbacks.evaluation_mode import evaluated_net, evaluation_mode
from vitfw.callbacks.logging_steps import log_scalars
from vitfw.console import log
from vitfw.data.transforms import denormalise
from vitfw.errors import ConfigError
from vitfw.figure import Figure
from vitfw.models.attention_rollout import (
    Seen,
    bytes_of_maps,
    patch_query,
    query_of,
    seen_by,
    uniform_distance,
)
from vitfw.models.vit import VisionTransformer
from vitfw.preview import captions_of
from vitfw.training.masked_autoencoder import MaskedAutoencoder

MOST_BYTES = 256_000_000  # of the attention of all blocks, at any time
KEY = "callbacks.attention"
TITLES = {"attention/heads": "Attention", "attention/rollout": "Attention rollout"}  # in the report
CAPTION = (
    "The lighter, the more attention, from the least to the most of each map; the figures are a "
    "patch's share of all attention."
)


class AttentionMaps(L.Callback):
    """In the validations of every `every_n_epochs`-th epoch, and at the end of a fit: what the net
    attends to in the first `count` validation images.

    Pictures: each head of a block, `max_heads` at most (`attention/heads`), rollout through all
    blocks (`attention/rollout`), mean distance of each head (`attention/distance`); its mean over
    the heads is `attention_distance/block_<i>`, in pixels. `heads`, `rollout` and `distance` leave
    each of them out.

    The attention is the class token's where the head of the net sees that, else what pooling makes
    of the patches'; or that of the patch at `query`, [row, column]. It is the evaluated net's,
    computed in the number format of its weights. Looking and drawing take at most `max_share` of
    the time of the fit, so that one of short epochs has fewer pictures; there always are those of
    the first such validation and of the end.

    A net that is not vitfw's VisionTransformer is not looked at, nor one whose attention would
    take more than 256 MB an image, nor a linear probe's, which does not change.

    Raises:
        ValueError: numbers that make no sense.
        ConfigError: the net has no such block or patch, before it is fitted.

    Source: rollout Abnar and Zuidema 2020, distance Dosovitskiy et al. 2021, figure 7.
    """

    def __init__(
        self,
        count: int = 4,
        every_n_epochs: int = 1,
        block: int = -1,
        query: Sequence[int] | None = None,
        max_heads: int = 12,
        max_share: float = 0.005,
        heads: bool = True,
        rollout: bool = True,
        distance: bool = True,
    ):
        least = {"count": count, "every_n_epochs": every_n_epochs, "max_heads": max_heads}
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"{KEY}.{name} {value} must be at least 1")
        if query is not None and len(query) != 2:
            raise ValueError(f"{KEY}.query {list(query)} must be row and column of a patch: [3, 5]")
        self.count = count
        self.every_n_epochs = every_n_epochs
        self.block = block
        self.query = query
        self.max_heads = max_heads
        self.heads, self.rollout, self.distance = heads, rollout, distance
        self._time = DrawingTime(max_share, "attention")
        self._figures: list[Figure] = []
        self._too_large = False
        self._batch: tuple[Tensor, Tensor] | None = None  # images and labels of the last validation
        self._drawn: int | None = None  # at which step

    def report_figures(self) -> list[Figure]:
        """Heads and rollout as last drawn."""
        return self._figures

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        net = net_of(trainer, pl_module)
        if stage != "fit" or net is None:
            return
        depth, grid = len(net.blocks), net.patch_embed.grid_size
        if not -depth <= self.block < depth:
            raise ConfigError(
                f"{KEY}.block={self.block} is none of 0 to {depth - 1}, or -1, the last"
            )
        if self.query is not None:
            try:
                patch_query(net, grid, *self.query)
            except ValueError as error:
                raise ConfigError(f"{KEY}.{error}") from error
        size = bytes_of_maps(net, grid)
        self._too_large = size > MOST_BYTES
        if self._too_large and trainer.is_global_zero:
            log.info(
                f"no pictures of attention: that of one image takes {size / 1e6:,.0f} MB, and "
                f"{MOST_BYTES / 1e6:.0f} MB is the most"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._time.start()
        self._batch = self._drawn = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        first = batch_idx == 0 and dataloader_idx == 0 and not trainer.sanity_checking
        if not first or not trainer.is_global_zero or batch[0].dim() != 4:
            return
        images, labels = (part[: self.count].clone() for part in batch)  # not all of the batch
        self._batch = images, labels
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and self._time.left:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._drawn:
            self._draw(trainer, pl_module)
        self._batch = None

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net = net_of(trainer, pl_module)
        data: Any = getattr(trainer, "datamodule", None)
        wanted = (self.heads or self.rollout or self.distance) and not self._too_large
        if self._batch is None or net is None or data is None or not wanted:
            return
        with self._time.drawing(), evaluation_mode(net):
            pooled = not isinstance(pl_module, MaskedAutoencoder)
            self._show(trainer, net, *self._batch, data, pooled)
        self._drawn = trainer.global_step

    def _show(
        self,
        trainer: L.Trainer,
        net: VisionTransformer,
        images: Tensor,
        labels: Tensor,
        data: Any,
        pooled: bool,
    ) -> None:
        seen, what = self.look(net, images, pooled)
        shown = denormalise(images, data.mean, data.std).cpu()
        pictures = self.pictures(net, shown, seen, captions_of(labels.cpu(), data.classes), what)
        for board in boards(trainer):
            for tag, picture in pictures.items():
                board.add_image(tag, np.asarray(picture), trainer.global_step, dataformats="HWC")
        if self.distance:
            means = seen.distances.mean(dim=(0, 2))  # [B, L, H] → [L]
            log_scalars(
                trainer, {f"attention_distance/block_{i}": d for i, d in enumerate(means.tolist())}
            )
        caption = f"{CAPTION} After step {trainer.global_step:,}."
        self._figures = [
            Figure(title, pictures[tag], caption)
            for tag, title in TITLES.items()
            if tag in pictures
        ]

    def look(self, net: VisionTransformer, images: Tensor, pooled: bool) -> tuple[Seen, str]:
        """What the query sees in images [B, C, H, W], and in words whose attention it is."""
        query, what = query_of(net, images, self.query, pooled)
        at_once = max(MOST_BYTES // bytes_of_maps(net, net.patch_embed.grid(images)), 1)
        queries = query.expand(len(images), -1).split(at_once)
        parts = zip(images.split(at_once), queries, strict=True)
        seen = [seen_by(net, some, query, self.block) for some, query in parts]
        return Seen(*map(torch.cat, zip(*seen, strict=True))), what

    def pictures(
        self, net: VisionTransformer, images: Tensor, seen: Seen, names: Sequence[str], what: str
    ) -> dict[str, Image.Image]:
        """Those that are wanted, by their tag; `images` [B, C, H, W] are in [0, 1]."""
        drawn, patch = {}, self.query
        if self.heads:
            heads = seen.heads[:, : self.max_heads]
            title = heads_title(what, self.block, len(net.blocks))
            drawn["attention/heads"] = heads_picture(images, heads, names, title, patch=patch)
        if self.rollout:
            title = f"Rollout of {what}"
            drawn["attention/rollout"] = rollout_picture(
                images, seen.rollout, names, title, patch=patch
            )
        if self.distance:
            distances, uniform = seen.distances.mean(dim=0), uniform_distance(net, images)
            title = f"Mean attention distance, {len(images)} images"
            drawn["attention/distance"] = distance_picture(distances, uniform, title)
        return drawn


def net_of(trainer: L.Trainer, pl_module: L.LightningModule) -> VisionTransformer | None:
    """The evaluated net, if its attention can be had."""
    net = evaluated_net(trainer, pl_module)
    return net if isinstance(net, VisionTransformer) else None

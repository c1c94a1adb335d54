"""What a masked autoencoder sees, and what it makes of it, as pictures in TensorBoard."""

from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitfw.callbacks.board import boards
from vitfw.data.transforms import denormalise
from vitfw.errors import ConfigError
from vitfw.figure import Figure
from vitfw.preview import sample_grid
from vitfw.training.masked_autoencoder import MaskedAutoencoder

GREY = 0.5  # of hidden patches
CAPTIONS = ("original", "masked", "reconstructed")


class Reconstructions(L.Callback):
    """In the validation of every `every_n_epochs`-th epoch: the first `count` validation images,
    each as it is, as it is masked, and with its hidden patches as predicted (`reconstructions`).

    Images and masks are the same every time, those of `val/loss`.

    Raises:
        ConfigError: what is trained is no masked autoencoder.
    """

    def __init__(self, count: int = 8, every_n_epochs: int = 1):
        for name, value in (("count", count), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"callbacks.reconstructions.{name} {value} must be at least 1")
        self.count = count
        self.every_n_epochs = every_n_epochs
        self._latest: tuple[Image.Image, int] | None = None  # and the epoch it is of

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, MaskedAutoencoder):
            raise ConfigError(
                "callbacks.reconstructions shows what method=mae predicts; choose that method, or "
                "callbacks.reconstructions=null"
            )

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        first = batch_idx == 0 and dataloader_idx == 0 and not trainer.sanity_checking
        if not (first and due and trainer.is_global_zero):
            return
        assert isinstance(pl_module, MaskedAutoencoder)
        data: Any = getattr(trainer, "datamodule", None)
        picture = self.picture(pl_module, batch[0][: self.count], data.mean, data.std)
        self._latest = picture, trainer.current_epoch + 1
        for board in boards(trainer):
            board.add_image(
                "reconstructions", np.asarray(picture), trainer.global_step, dataformats="HWC"
            )

    def report_figures(self) -> list[Figure]:
        """The latest picture; none before the first."""
        if self._latest is None:
            return []
        picture, epoch = self._latest
        caption = (
            f"Validation images after epoch {epoch}: as they are, as the encoder sees them, and "
            "with their hidden patches as predicted."
        )
        return [Figure("Reconstructions", picture, caption)]

    def picture(
        self, learner: MaskedAutoencoder, images: Tensor, mean: Any, std: Any
    ) -> Image.Image:
        """Normalised images [B, C, H, W], two to a row."""
        with torch.no_grad():
            predicted, masked = learner.reconstruct(images, learner.fixed_noise(images, 0))
        original, predicted = (denormalise(each, mean, std) for each in (images, predicted))
        shown = [original, original.masked_fill(masked, GREY), predicted.where(masked, original)]
        tiles = torch.stack(shown, dim=1).flatten(0, 1)  # 3 × [B, C, H, W] → [3 B, C, H, W]
        return sample_grid(tiles, CAPTIONS * len(images), columns=2 * len(CAPTIONS))

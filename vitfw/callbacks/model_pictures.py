"""What the net's first layers have learned, as pictures in TensorBoard."""

import lightning as L
import numpy as np
from PIL import Image
from torch import nn

from vitfw.callbacks.board import boards
from vitfw.callbacks.drawing_time import DrawingTime
from vitfw.callbacks.evaluation_mode import evaluated_net
from vitfw.model_pictures import kernels_picture, patch_kernels, position_table, similarity_picture


class ModelPictures(L.Callback):
    """At the start of a fit, after every `every_n_epochs`-th epoch, and at the end: how similar
    position embeddings are (`model/position_similarity`), and the kernels that patches meet first
    (`model/patch_filters`), of the evaluated weights. `positions` and `filters` leave each of them
    out.

    A net without them has no such picture. They take at most `max_share` of the time of the fit,
    so that one of short epochs has fewer; start and end are always drawn.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        max_share: float = 0.005,
        positions: bool = True,
        filters: bool = True,
    ):
        if every_n_epochs < 1:
            raise ValueError(
                f"callbacks.model_pictures.every_n_epochs {every_n_epochs} must be at least 1"
            )
        self.every_n_epochs = every_n_epochs
        self.positions, self.filters = positions, filters
        self._time = DrawingTime(max_share, "model_pictures")
        self._drawn: int | None = None  # at which step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._time.start()
        self._drawn = trainer.global_step or None  # a run that goes on has been drawn
        self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and self._time.left:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, found = trainer.global_step, boards(trainer)
        net = evaluated_net(trainer, pl_module)
        if step == self._drawn or not found or net is None:
            return
        with self._time.drawing():
            for tag, picture in self.pictures(net).items():
                for board in found:
                    board.add_image(tag, np.asarray(picture), step, dataformats="HWC")
        self._drawn = step

    def pictures(self, net: nn.Module) -> dict[str, Image.Image]:
        """By their tags; those that there are."""
        pictures = {}
        if self.positions and (table := position_table(net)) is not None:
            pictures["model/position_similarity"] = similarity_picture(table)
        if self.filters and (kernels := patch_kernels(net)) is not None:
            pictures["model/patch_filters"] = kernels_picture(kernels)
        return pictures

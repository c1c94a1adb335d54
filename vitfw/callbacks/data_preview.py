"""What a run is trained on, as pictures in TensorBoard."""

from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

from vitfw.errors import ConfigError
from vitfw.preview import captions_of, class_count_chart, sample_grid

SPLITS = ("train", "val")


class DataPreview(L.Callback):
    """At the start of a fit: `count` augmented training samples, as many of validation, and how
    many images each class has (`data/train`, `data/val`, `data/class_counts`).

    A resumed run has them already. The samples come from `preview_batch` of the datamodule, not
    from the loaders, and all random states are put back: the run is as it is without.
    """

    def __init__(self, count: int = 32):
        if count < 1:
            raise ValueError(f"callbacks.data_preview.count {count} must be at least 1")
        self.count = count

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        boards = [each for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
        data: Any = getattr(trainer, "datamodule", None)
        begun = trainer.global_step > 0 or trainer.current_epoch > 0
        if begun or not trainer.is_global_zero or not boards or data is None:
            return
        with isolate_rng():
            pictures = self.pictures(data)
        for board in boards:
            for tag, picture in pictures.items():
                board.experiment.add_image(tag, np.asarray(picture), 0, dataformats="HWC")

    def pictures(self, data: Any) -> dict[str, Image.Image]:
        """The pictures by their tag; none of a split without images."""
        counts = {split: data.class_counts(split).cpu() for split in SPLITS}
        pictures = {}
        for split in SPLITS:
            if shown := min(self.count, int(counts[split].sum())):
                try:
                    images, targets = data.preview_batch(split, shown)
                except ConfigError:  # no reason to stop a run
                    continue
                captions = captions_of(targets.cpu(), data.classes)
                pictures[f"data/{split}"] = sample_grid(images, captions)
        chart = class_count_chart(counts["train"], counts["val"], data.classes)
        return {**pictures, "data/class_counts": chart}

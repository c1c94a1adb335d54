"""The data module that gives a linear probe features in the place of images.

M images, V views, C channels of a feature.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vitfw.console import log
from vitfw.data.class_balance import sampling_weights
from vitfw.data.classification_data import ClassificationData
from vitfw.data.counter_rng import randint
from vitfw.data.images import ArrayImages
from vitfw.data.loaders import ResidentLoader
from vitfw.data.residency import MemoryShare
from vitfw.data.sampler import EpochSampler
from vitfw.features.cache import cached_features, depends_on, features_key
from vitfw.features.compute import Features, compute_features
from vitfw.training.linear_probe import LinearProbe

VIEW = 401  # the random number that picks a view; augmentation uses those below


class FeatureData(L.LightningDataModule):
    """Features in the place of images: batches ([B, C], labels [B]) to fit a linear probe on.

    Training features come in a shuffled order that follows from (seed, epoch), with `views` = 2
    one of each image's two views at random; validation is of the images as they are. They are
    computed when a trainer first asks for a loader, on its device and in its precision, and kept
    in `folder`. `described` is what they depend on beside the weights. There are no test features:
    the test is of images, `trainer.test(probe, datamodule=data)`.
    """

    def __init__(
        self,
        data: ClassificationData,
        net: nn.Module,
        folder: Path,
        described: Mapping[str, Any],
        views: int = 1,
    ):
        super().__init__()
        self.data = data
        self.net = net
        self.folder = folder
        self.described = dict(described)
        self.views = views
        self._splits: dict[str, ArrayImages] = {}
        self._memory = MemoryShare(0.5)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    def count(self, split: str) -> int:
        return self.data.count(split)

    def class_counts(self, split: str) -> Tensor:
        return self.data.class_counts(split)

    def preview_batch(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """The images behind the features, for people to look at."""
        return self.data.preview_batch(split, count)

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.data.load_state_dict(state_dict)

    def train_dataloader(self) -> ResidentLoader:
        features = self.features("train")
        how = getattr(self.data, "sampling", None)
        weights = None
        if how is not None:
            weights = sampling_weights(features.labels.cpu(), self.data.num_classes, how)
        return self._batches(features, self.data.batch_size, shuffle=True, weights=weights)

    def val_dataloader(self) -> ResidentLoader | list:
        if self.count("val") == 0:
            return []
        return self._batches(self.features("val"), self.data.eval_batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """[B, V, C] → [B, C]"""
        values, labels, keys, _ = batch
        if self.trainer is None or not self.trainer.training or values.shape[1] == 1:
            return values[:, 0].float(), labels
        view = randint(keys, VIEW, values.shape[1])
        return values[torch.arange(len(view), device=view.device), view].float(), labels

    def features(self, split: str) -> ArrayImages:
        """[M, V, C] and labels, on the trainer's device where they fit into half of its memory."""
        if split not in self._splits:
            trainer: Any = self.trainer
            device = trainer.strategy.root_device
            views = self.views if split == "train" else 1
            described = {**self.described, "views": views, "precision": str(trainer.precision)}

            def compute() -> Features:
                with trainer.precision_plugin.forward_context():
                    found = compute_features(self.net, self.data, split, device, views)
                log.info(f"features of {len(found.labels):,} {split} images computed once")
                return found

            key = features_key(self.net, described)
            path = self.folder / f"{split}.safetensors"
            found = cached_features(path, key, compute)
            fits = device.type != "cpu" and self._memory.takes(found.values.nbytes, device)
            place = device if fits else torch.device("cpu")
            self._splits[split] = ArrayImages(found.values.to(place), found.labels.to(place))
        return self._splits[split]

    def _batches(
        self,
        features: ArrayImages,
        batch_size: int,
        shuffle: bool,
        weights: Tensor | None = None,
    ) -> ResidentLoader:
        trainer: Any = self.trainer
        sampler = EpochSampler(
            len(features),
            batch_size,
            self.data.seed,
            shuffle,
            trainer.global_rank,
            trainer.world_size,
            weights=weights,
        )
        return ResidentLoader(features, sampler, trainer.strategy.root_device)


def data_to_fit(
    learner: L.LightningModule,
    data: ClassificationData,
    folder: Path,
    data_config: Mapping[str, Any],
    model_config: Mapping[str, Any],
) -> L.LightningDataModule:
    """`data` themselves; for a linear probe their features, which are kept in `folder`.

    The configs are those that data and net were built from: with others, features are computed
    again.
    """
    if not isinstance(learner, LinearProbe):
        return data
    described = depends_on(data_config, model_config)
    return FeatureData(data, learner.net, folder, described, learner.views)

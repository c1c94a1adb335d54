"""What a masked autoencoder makes of validation images, in TensorBoard."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks.reconstructions import Reconstructions
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.preview import as_pictures
from vitfw.training.classifier import Classifier
from vitfw.training.masked_autoencoder import MaskedAutoencoder
from vitfw.training.optimizers import adamw

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Noise(L.LightningDataModule):
    """Normalised random images: twelve of training, ten of validation."""

    mean, std = MEAN, STD

    def pixels(self) -> Tensor:
        return torch.rand(22, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def _loader(self, start: int, end: int) -> DataLoader:
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        images = (self.pixels()[start:end] - mean) / std
        return DataLoader(TensorDataset(images, torch.zeros(len(images)).long()), batch_size=4)

    def train_dataloader(self) -> DataLoader:
        return self._loader(0, 12)

    def val_dataloader(self) -> DataLoader:
        return self._loader(12, 22)


def make_net() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(8, 2, num_classes=3, embed_dim=8, depth=1, num_heads=2)


def make_learner() -> MaskedAutoencoder:
    decoder: dict[str, Any] = {"decoder_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    return MaskedAutoencoder(make_net(), **decoder, optimizer=partial(adamw, lr=1e-2))


def make_trainer(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=4,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def steps_with_pictures(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return [event.step for event in events.Images("reconstructions")]


@pytest.mark.parametrize("every, steps", [(1, [3, 6, 9, 12]), (2, [6, 12])])
def test_every_nth_validation_leaves_a_picture(tmp_path: Path, every: int, steps: list[int]):
    trainer = make_trainer(tmp_path, Reconstructions(count=3, every_n_epochs=every))
    trainer.fit(make_learner(), datamodule=Noise())
    assert steps_with_pictures(tmp_path) == steps


def test_the_training_is_the_same_with_and_without(tmp_path: Path):
    learners = [make_learner(), make_learner()]
    for learner, callbacks in zip(learners, ([], [Reconstructions()]), strict=True):
        torch.manual_seed(5)
        make_trainer(tmp_path / str(len(callbacks)), *callbacks).fit(learner, datamodule=Noise())
    left, right = (learner.state_dict() for learner in learners)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_row_shows_images_their_visible_patches_and_the_prediction(tmp_path: Path):
    learner, data = make_learner().eval(), Noise()
    make_trainer(tmp_path).validate(learner, datamodule=data, verbose=False)
    images = next(iter(data.val_dataloader()))[0][:1]
    nn.init.zeros_(learner.decoder.pred.weight)  # then every patch is predicted as its mean
    nn.init.zeros_(learner.decoder.pred.bias)
    row = np.asarray(Reconstructions().picture(learner, images, MEAN, STD))
    pixels = data.pixels()[12:13]
    (tile,) = (np.asarray(tile) for tile in as_pictures(pixels))
    side = tile.shape[0]
    pitch = (row.shape[1] - side) // 2
    original, masked, predicted = (row[:side, x : x + side] for x in (0, pitch, 2 * pitch))
    assert np.abs(original.astype(int) - tile).max() <= 1  # normalising and back may round

    hidden = (masked == 128).all(axis=2)
    assert hidden.mean() == 0.75
    assert np.array_equal(masked[~hidden], original[~hidden])
    assert np.array_equal(predicted[~hidden], original[~hidden])
    ratio = torch.tensor(STD)[:, None, None]
    flat = (pixels[0] - torch.tensor(MEAN)[:, None, None]) / ratio
    means = nn.functional.avg_pool2d(flat.mean(dim=0)[None], 2)  # of all three channels
    blurred = nn.functional.interpolate(means[None], scale_factor=2)[0] * ratio
    expected = blurred + torch.tensor(MEAN)[:, None, None]
    (expected_tile,) = (np.asarray(tile) for tile in as_pictures(expected[None]))
    difference = np.abs(predicted[hidden].astype(int) - expected_tile[hidden])
    assert difference.max() <= 1


def test_nothing_is_written_to_the_console(tmp_path: Path, capsys):
    trainer = make_trainer(tmp_path, Reconstructions())
    learner, data = make_learner(), Noise()
    capsys.readouterr()
    trainer.validate(learner, datamodule=data, verbose=False)
    assert capsys.readouterr().out == ""


def test_another_method_is_refused(tmp_path: Path):
    trainer = make_trainer(tmp_path, Reconstructions())
    with pytest.raises(ConfigError, match="callbacks.reconstructions=null"):
        trainer.fit(Classifier(make_net(), 3, optimizer=adamw), datamodule=Noise())


@pytest.mark.parametrize("options", [{"count": 0}, {"every_n_epochs": 0}])
def test_a_count_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        Reconstructions(**options)


def test_the_report_gets_the_latest_picture_also_without_tensorboard(tmp_path: Path):
    callback = Reconstructions(count=2)
    assert callback.report_figures() == []
    trainer = make_trainer(tmp_path, callback)
    trainer.loggers = []
    trainer.fit(make_learner(), datamodule=Noise())
    (figure,) = callback.report_figures()
    assert "after epoch 4" in figure.caption and figure.image.width > figure.image.height

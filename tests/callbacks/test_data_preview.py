"""Pictures of the data in TensorBoard, without a trace in the training itself."""

import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks.data_preview import DataPreview
from vitfw.data.datamodule import ImageData

TAGS = ["data/class_counts", "data/train", "data/val"]


class Noise(L.LightningDataModule):
    """Random images whose preview uses up every kind of random number."""

    classes = ("a", "b", "c")

    def __init__(self, val: int = 12):
        super().__init__()
        self.val = val
        self.asked: list[tuple[str, int]] = []

    def class_counts(self, split: str) -> Tensor:
        share = (24 if split == "train" else self.val) // 3
        return torch.tensor([share, share, share])

    def preview_batch(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        self.asked.append((split, count))
        random.random(), np.random.rand(7)  # noqa: NPY002
        return torch.rand(count, 3, 8, 8), torch.randint(0, 3, (count,))

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(24, 3, 8, 8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(24) % 3), batch_size=6, shuffle=True)


class Linear(L.LightningModule):
    """Dropout, a linear layer, and numbers from numpy and Python in every step."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        weight = 1 + random.random() + float(np.random.rand())  # noqa: NPY002
        return weight * nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_in(folder: Path, *callbacks: L.Callback, epochs: int = 1, logger=None) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=TensorBoardLogger(folder, name="", version="") if logger is None else logger,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def pictures_in(folder: Path) -> dict[str, int]:
    """The tags of all pictures of a run and how often each was written."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: len(found.Images(tag)) for tag in sorted(found.Tags()["images"])}


def test_a_fit_begins_with_samples_and_class_counts_in_tensorboard(tmp_path: Path):
    data = Noise()
    trainer_in(tmp_path, DataPreview(count=16)).fit(Linear(), datamodule=data)
    assert pictures_in(tmp_path) == dict.fromkeys(TAGS, 1)
    assert data.asked == [("train", 16), ("val", 12)]


def test_training_is_bit_identical_with_and_without(tmp_path: Path):
    ends = []
    for name, callbacks in {"with": [DataPreview()], "without": []}.items():
        L.seed_everything(3, verbose=False)
        model = Linear()
        trainer_in(tmp_path / name, *callbacks, epochs=2).fit(model, datamodule=Noise())
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert torch.equal(*ends)


def test_a_resumed_run_writes_no_second_pictures(tmp_path: Path):
    first = trainer_in(tmp_path, DataPreview())
    first.fit(Linear(), datamodule=Noise())
    first.save_checkpoint(tmp_path / "last.ckpt")
    again = Noise()
    second = trainer_in(tmp_path, DataPreview(), epochs=2)
    second.fit(Linear(), datamodule=again, ckpt_path=tmp_path / "last.ckpt")
    assert second.current_epoch == 2
    assert again.asked == []
    assert pictures_in(tmp_path) == dict.fromkeys(TAGS, 1)


def test_nothing_is_drawn_where_no_tensorboard_would_show_it(tmp_path: Path):
    data = Noise()
    trainer_in(tmp_path, DataPreview(), logger=False).fit(Linear(), datamodule=data)
    assert data.asked == []


def test_only_the_first_process_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = Noise()
    trainer = trainer_in(tmp_path)
    trainer.fit(Linear(), datamodule=data)
    monkeypatch.setattr(L.Trainer, "global_step", 0)
    monkeypatch.setattr(L.Trainer, "current_epoch", 0)
    monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    DataPreview().on_train_start(trainer, Linear())
    assert data.asked == []
    monkeypatch.setattr(L.Trainer, "is_global_zero", True)
    DataPreview().on_train_start(trainer, Linear())
    assert data.asked == [("train", 24), ("val", 12)]


def test_a_loader_in_the_middle_of_an_epoch_goes_on_where_it_was(tmp_path: Path):
    data, undisturbed = (ImageData("digits", root=tmp_path, batch_size=32) for _ in range(2))
    loaders = []
    for module in (data, undisturbed):
        module.setup("fit")
        loaders.append(module.train_dataloader())
    batches = [iter(loader) for loader in loaders]
    for _ in range(3):
        for each in batches:
            next(each)
    assert sorted(DataPreview().pictures(data)) == TAGS
    assert loaders[0].state_dict() == loaders[1].state_dict()
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.keys, other.keys)


def test_a_set_without_validation_shows_training_only(tmp_path: Path):
    trainer_in(tmp_path, DataPreview()).fit(Linear(), datamodule=Noise(val=0))
    assert pictures_in(tmp_path) == {"data/class_counts": 1, "data/train": 1}


def test_a_count_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        DataPreview(count=0)

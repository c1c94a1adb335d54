"""Where a run was when it broke, in words."""

import lightning as L
import pytest
from tiny_fit import batches, fit
from torch.utils.data import DataLoader, Dataset

from vitfw.callbacks.whereabouts import Whereabouts


class BreaksAt(L.Callback):
    """Raises in the `hook`, when `steps` have been made."""

    def __init__(self, hook: str, steps: int):
        self.steps = steps
        setattr(self, hook, self._break)

    def _break(self, trainer, *args):
        if trainer.global_step == self.steps:
            raise RuntimeError("broken")


def place(*callbacks: L.Callback, **options) -> str:
    seen = Whereabouts()
    with pytest.raises(RuntimeError, match="broken"):
        fit(seen, *callbacks, max_epochs=3, **options)
    return seen.place


def test_a_step_is_told_by_epoch_and_batch(tmp_path):
    there = place(BreaksAt("on_train_batch_start", 5), folder=tmp_path)
    assert there == "training, epoch 2 of 3, batch 2 of 4 (5 steps done)"


def test_what_fails_before_the_first_step_is_the_start(tmp_path):
    there = place(BreaksAt("on_train_start", 0), folder=tmp_path)
    assert there == "start of the training, before the first step"


def test_validation_and_its_trial_are_told_apart(tmp_path):
    breaks = BreaksAt("on_validation_batch_end", 0)
    there = place(breaks, folder=tmp_path, val=batches(1), num_sanity_val_steps=1)
    assert there == "trying the validation before the training"
    breaks = BreaksAt("on_validation_batch_end", 8)
    there = place(breaks, folder=tmp_path, val=batches(1))
    assert there == "validation, epoch 2 of 3 (8 steps done)"


class Unreadable(Dataset):
    """Eight samples, of which the last is broken."""

    def __init__(self):
        self.samples = batches(2).dataset

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 7:
            raise RuntimeError("broken")
        return self.samples[index]


def test_an_error_of_the_loader_is_told_as_one_of_reading(tmp_path):
    there = place(folder=tmp_path, data=DataLoader(Unreadable(), batch_size=4))
    assert there.startswith("training, epoch 1 of 3") and there.endswith(", reading a batch")

"""A trial tells its study of each validation, and stops where the study says so."""

import lightning as L
import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vitfw.callbacks.trial_report import TrialReport
from vitfw.sweep.process_identity import HERE, fate
from vitfw.sweep.storage import open_storage
from vitfw.sweep.trial_link import JOB, PRUNED, TRIAL_VARIABLE, TrialLink, trial_of

ACCURACIES = [0.2, 0.4, 0.6, 0.8]  # after each epoch


class Rising(L.LightningModule):
    """Its validation accuracy is known beforehand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        """Nothing is computed."""

    def on_validation_epoch_end(self):
        self.log("val/accuracy", torch.tensor(ACCURACIES[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: TrialReport) -> tuple[L.Trainer, Rising]:
    trainer = L.Trainer(
        max_epochs=len(ACCURACIES),
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    learner = Rising()
    data = DataLoader(torch.ones(2, 1), batch_size=1)
    trainer.fit(learner, data, data)
    return trainer, learner


def linked(folder, monkeypatch, pruner="none", others=()) -> optuna.Study:
    """A study with finished trials, and a running one that is this process."""
    storage = f"journal:{folder / 'j'}"
    study = optuna.create_study(storage=open_storage(storage), study_name="s", direction="maximize")
    for values in others:
        trial = study.ask()
        for step, value in enumerate(values):
            trial.report(value, step)
        study.tell(trial, max(values))
    number = study.ask().number
    options = {"n_startup_trials": len(others)} if pruner == "median" else {}
    link = TrialLink(storage, "s", number, "val/accuracy", pruner, options)
    monkeypatch.setenv(TRIAL_VARIABLE, link.as_text())
    return study


def test_each_validation_of_the_fit_is_reported_at_its_epoch(tmp_path, monkeypatch):
    study = linked(tmp_path, monkeypatch)
    callback = TrialReport()
    trainer, _ = fit(callback)
    (trial,) = study.trials
    assert trial.intermediate_values == pytest.approx(dict(enumerate(ACCURACIES)))
    assert fate(trial.user_attrs[JOB]) == HERE
    assert trainer.current_epoch == len(ACCURACIES)
    assert not callback.pruned


def test_a_trial_below_the_median_ends_after_that_epoch(tmp_path, monkeypatch):
    """The medians of the others are 0.15, 0.35 and then 0.65, above 0.6."""
    others = [(0.1, 0.3, 0.6, 0.7), (0.2, 0.4, 0.7, 0.8)]
    study = linked(tmp_path, monkeypatch, "median", others)
    callback = TrialReport()
    trainer, _ = fit(callback)
    trial = study.trials[2]
    assert trial.intermediate_values == pytest.approx(dict(enumerate(ACCURACIES[:3])))
    assert trial.user_attrs[PRUNED] == 2
    assert callback.pruned
    assert trainer.global_step == 3 * 2


def test_a_trial_that_was_pruned_and_killed_is_not_trained_to_its_end(tmp_path, monkeypatch):
    study = linked(tmp_path, monkeypatch)
    trial_of(study, 0).set_user_attr(PRUNED, 0)
    callback = TrialReport()
    trainer, _ = fit(callback)
    assert callback.pruned
    assert trainer.current_epoch == 1


def test_a_run_that_is_no_trial_is_left_alone(monkeypatch):
    monkeypatch.delenv(TRIAL_VARIABLE, raising=False)
    callback = TrialReport()
    trainer, _ = fit(callback)
    assert trainer.current_epoch == len(ACCURACIES)
    assert not callback.pruned

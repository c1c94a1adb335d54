"""A trial tells its study of each validation, and stops where the study says so."""

import threading
import time

import lightning as L
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn
from torch.utils.data import DataLoader

from vitfw.callbacks.trial_report import TrialReport
from vitfw.errors import ConfigError
from vitfw.sweep.process_identity import HERE, fate
from vitfw.sweep.storage import open_storage
from vitfw.sweep.trial_link import ALIVE, JOB, PRUNED, TRIAL_VARIABLE, TrialLink, trial_of

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


def fit(callback: TrialReport, *others: L.Callback) -> tuple[L.Trainer, Rising]:
    trainer = L.Trainer(
        max_epochs=len(ACCURACIES),
        accelerator="cpu",
        callbacks=[callback, *others],
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


def linked(folder, monkeypatch, pruner="none", others=(), patience=120.0) -> optuna.Study:
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
    link = TrialLink(storage, "s", number, "val/accuracy", pruner, options, patience)
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


class InTheFirstEpoch(L.Callback):
    def __init__(self, action):
        self.action = action

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.action()


def test_a_trial_is_alive_during_a_long_epoch_and_no_longer_after_the_fit(tmp_path, monkeypatch):
    study = linked(tmp_path, monkeypatch, patience=0.1)
    seen = set()

    def long_epoch():
        for _ in range(10):
            time.sleep(0.05)
            seen.add(study.trials[0].user_attrs[ALIVE])

    threads = threading.active_count()
    fit(TrialReport(), InTheFirstEpoch(long_epoch))
    assert len(seen) >= 3
    assert threading.active_count() == threads


def test_a_fit_that_breaks_is_not_called_alive(tmp_path, monkeypatch):
    linked(tmp_path, monkeypatch)
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        fit(TrialReport(), InTheFirstEpoch(lambda: 1 / 0))
    assert threading.active_count() == threads


@pytest.mark.parametrize("before", [True, False])
def test_a_run_whose_trial_another_process_has_ended_ends_in_one_line(
    tmp_path, monkeypatch, before
):
    study = linked(tmp_path, monkeypatch)
    end = lambda: study.tell(0, state=TrialState.FAIL)  # noqa: E731
    if before:
        end()
    with pytest.raises(ConfigError, match="trial 0 of the study s was ended by another") as caught:
        fit(TrialReport(), InTheFirstEpoch(end if not before else lambda: pytest.fail("trained")))
    assert "\n" not in str(caught.value)


def test_a_run_that_is_no_trial_is_left_alone(monkeypatch):
    monkeypatch.delenv(TRIAL_VARIABLE, raising=False)
    callback = TrialReport()
    trainer, _ = fit(callback)
    assert trainer.current_epoch == len(ACCURACIES)
    assert not callback.pruned

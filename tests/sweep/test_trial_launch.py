"""With Hydra's own launchers, too, a trial trains in the folder that its search looks into."""

import json
import threading
from pathlib import Path

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from optuna.trial import TrialState

from hydra_plugins.vitfw_sweeper._trial_launch import hide_password
from vitfw.cli import train as command
from vitfw.run_directory import RunDirectory
from vitfw.sweep.storage import PASSWORD_VARIABLE, with_password
from vitfw.sweep.trial_link import link_of_process

LR = "optimizer.lr=tag(log, interval(1e-4, 1e-2))"
WORDS = ["-m", "hydra/sweeper=optuna", "hydra/launcher=basic", LR]


def test_trials_of_a_basic_launcher_are_gone_on_with_in_the_folder_that_the_command_names(
    tmp_path, monkeypatch
):
    def train(config, overrides):
        link = link_of_process()
        trained.append(Path(HydraConfig.get().runtime.output_dir))
        assert link is not None
        assert link.number == len(trained) - 1
        metrics = {"val/accuracy_best": 1 - config.optimizer.lr}
        trained[-1].mkdir(parents=True, exist_ok=True)
        (trained[-1] / "metrics.json").write_text(json.dumps(metrics))
        return metrics

    trained: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "train", train)
    for n_trials in (2, 3):
        assert command.main([*WORDS, f"hydra.sweeper.n_trials={n_trials}"]) == 0
    (folder,) = (tmp_path / "runs/sweeps").iterdir()
    assert trained == [folder / str(number) for number in range(3)]
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert link_of_process() is None


@pytest.mark.parametrize("quote", ["", "'"])
def test_multirun_yaml_holds_no_password(monkeypatch, quote):
    monkeypatch.setenv(PASSWORD_VARIABLE, "")
    url = "postgresql://me:secret@host/db"
    typed = ["hydra/sweeper=optuna", f"hydra.sweeper.storage={quote}{url}{quote}"]
    content = {"sweeper": {"storage": url}, "overrides": {"hydra": typed}}
    config = OmegaConf.create({"hydra": content})
    hide_password(config)
    assert "secret" not in OmegaConf.to_yaml(config)
    assert config.hydra.sweeper.storage == "postgresql://me:***@host/db"
    assert config.hydra.overrides.hydra[0] == typed[0]
    assert with_password(config.hydra.sweeper.storage) == url  # for the page at the end


def test_a_search_that_is_refused_writes_nothing(tmp_path, monkeypatch, capsys):
    run = tmp_path / "search/0/metrics.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert command.main([*WORDS, "hydra.sweep.dir=search"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: search holds runs of another search (0)")
    assert list((tmp_path / "search").iterdir()) == [run.parent]


def test_where_one_job_of_a_batch_ends_badly_all_get_their_result(tmp_path, monkeypatch):
    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            launched.append(len(job_overrides))
            if len(launched) == 1:
                training.open()
                threading.Timer(0.2, finish).start()
                raise RuntimeError("the time of job 1 is over")
            again = RunDirectory(tmp_path / "search" / str(initial_job_idx))
            again.path.mkdir()
            again.write_metrics({"val/accuracy_best": 0.5})
            return [None]

    def finish():
        training.write_metrics({"val/accuracy_best": 0.75})
        training.close()

    launched = []
    training = RunDirectory(tmp_path / "search/0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: Launcher())
    options = ["hydra.sweep.dir=search", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    assert command.main([*WORDS, *options]) == 0
    storage = f"sqlite:///{tmp_path}/search/study.db"
    finished, lost, again = optuna.load_study(study_name="search", storage=storage).trials
    assert launched == [2, 1]
    assert (finished.value, lost.value, again.value) == (0.75, None, 0.5)
    assert again.user_attrs["retry_of"] == 1 and again.params == lost.params

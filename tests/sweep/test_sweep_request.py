"""What is asked of `hydra/sweeper=optuna` is refused in one line, before a trial starts."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydra_plugins.vitfw_sweeper import _sweep_request
from hydra_plugins.vitfw_sweeper._sweep_request import best_command, read_request, sweep_folder
from hydra_plugins.vitfw_sweeper.optuna_sweeper import OptunaSweeperConfig
from vitfw.cli.main import main
from vitfw.errors import ConfigError

LR = "optimizer.lr=tag(log, interval(1e-4, 1e-2))"
CONFIG = {
    "hydra": {
        "job": {"config_name": "train"},
        "overrides": {"hydra": []},
        "sweep": {"dir": "runs/sweeps/${now:%H-%M}"},
    },
    "method": {"_target_": "vitfw.training.classifier.Classifier"},
    "average": None,
    "trainer": {"max_epochs": 9},
}


def asked(*words, folder=None, **options):
    """As the plugin asks; keys are not composed."""
    config = OmegaConf.create(CONFIG)
    if folder:
        config.hydra.sweep.dir = folder
    whole = {key: value for key, value in asdict(OptunaSweeperConfig()).items() if key[0] != "_"}
    context = SimpleNamespace(config_loader=None)
    return read_request({**whole, **options}, list(words) or [LR], config, context)


@pytest.fixture
def uncomposed(monkeypatch):
    monkeypatch.setattr(_sweep_request, "check_words", lambda space: None)


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["optimizer.lr=1e-3"], {}, "nothing to search over"),
        ([LR, "run_dir=here"], {}, "give hydra.sweep.dir"),
        ([], {"metric": "test/accuracy"}, "must not choose on the test set"),
        ([], {"metric": "val/acc"}, "never logged"),
        ([], {"metric": ["val/loss", "params"], "direction": "minimize"}, "has 1 for 2 metrics"),
        ([], {"direction": "up"}, "direction=up should be maximize or minimize"),
        ([], {"n_trials": 0}, "n_trials=0 should be a number from 1 up"),
        ([], {"n_trials": None}, "n_trials=null"),
        ([], {"n_jobs": 0}, "n_jobs=0 must be at least 1"),
        ([], {"sampler": "grid"}, "the interval of optimizer.lr"),
        ([], {"pruner": "median", "metric": "fit_seconds"}, "is not measured"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(uncomposed, words, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        asked(*words, **options)
    assert "\n" not in str(caught.value)


def test_a_grid_without_a_number_of_trials_is_the_whole_grid(uncomposed):
    words = ["a=1,2,3", "b=range(0, 4)"]
    assert asked(*words, sampler="grid", n_trials=None).n_trials == 12
    assert asked(*words, sampler="grid", n_trials=5).n_trials == 5
    assert asked(*words, sampler="grid").n_trials == 12


def test_trials_leave_the_test_set_alone_unless_that_is_typed(uncomposed):
    assert "test_after_fit=false" in asked().goal.space.fixed
    typed = asked(LR, "test_after_fit=true").goal.space.fixed
    assert "test_after_fit=false" not in typed


def test_a_metric_decides_which_side_is_better(uncomposed):
    goal = asked(metric=["val/accuracy_best", "flops_per_image", "val/loss"]).goal
    assert goal.directions == ["maximize", "minimize", "minimize"]


def test_hyperband_is_told_how_long_a_trial_is(uncomposed):
    assert asked(pruner="hyperband").pruner_options == {"max_resource": 9}


def test_the_same_command_finds_its_search_and_another_one_does_not():
    words = [LR, "model=vit_nano", "hydra/sweeper=optuna"]
    folder = sweep_folder([*words, "hydra.sweeper.n_trials=20"])
    assert folder == sweep_folder([words[1], words[0], words[2], "hydra.sweeper.n_trials=50"])
    assert folder == sweep_folder([*words, "data.num_workers=8"])
    others = [
        [LR, "model=vit_ti4"],
        [*words, "hydra.sweeper.sampler=random"],
        [*words, "experiment=sweep_augment"],
        [*words, "data.root=elsewhere"],
        [*words, "data.num_workers=1,2"],
        ["model=vit_nano", "optimizer.lr=interval(1e-4, 1e-2)"],
    ]
    assert folder not in [sweep_folder(other) for other in others]


def test_a_typed_folder_is_kept(uncomposed):
    assert str(asked().folder) == "runs/sweeps/optimizer.lr-tag_log_interval_1e-4_1e-2"
    assert str(asked(folder="mine").folder) == "mine"


def test_the_best_trial_is_a_command_that_can_be_typed(uncomposed):
    space = asked(LR, "+note='a b'").goal.space
    assert (
        best_command(space, {"optimizer.lr": 0.0012})
        == "vitfw train '+note='\"'\"'a b'\"'\"'' optimizer.lr=0.0012"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lrr=interval(0, 1)"], "did you mean optimizer.lr"),
        (["model.depth=4", "seed=range(3, 3)"], "the range is empty"),
        ([LR, "hydra.sweeper.metric=val/acuracy"], "did you mean val/accuracy"),
        ([LR, "hydra.sweeper.storage=mysql+none://here/db"], "cannot be reached"),
    ],
)
def test_a_wrong_search_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "hydra/sweeper=optuna", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_other_commands_have_no_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "hydra/launcher=process", "model=vit_nano", "seed=1,2"]
    assert main(["explain", *words]) == 2
    assert "hydra/launcher=basic" in capsys.readouterr().err

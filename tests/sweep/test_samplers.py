"""Samplers and pruners are Optuna's own, and refuse what they cannot do."""

import optuna
import pytest
from optuna.trial import Trial, TrialState

from vitfw.errors import ConfigError
from vitfw.sweep.pruners import make_pruner
from vitfw.sweep.samplers import grid_size, make_sampler
from vitfw.sweep.space import read_space
from vitfw.sweep.storage import open_storage
from vitfw.sweep.trial_link import TrialLink

NUMBERS = ["lr=tag(log, interval(1e-4, 1e-1))", "depth=int(interval(1, 9))"]


@pytest.mark.parametrize(
    ("name", "options", "words", "objectives", "message"),
    [
        ("tpee", {}, NUMBERS, 1, "sampler=tpee does not exist; known: tpe, cmaes"),
        ("tpe", {"n_startup_trial": 3}, NUMBERS, 1, "did you mean n_startup_trials"),
        ("tpe", {"seed": 3}, NUMBERS, 1, "seed is not an option"),
        ("grid", {}, NUMBERS, 1, "the interval of lr"),
        ("grid", {"x": 1}, ["lr=1,2"], 1, "has no options"),
        ("cmaes", {}, ["m=a,b", NUMBERS[0]], 1, "at least two, and there is 1"),
        ("cmaes", {}, ["m=a,b"], 1, "there are none"),
        ("cmaes", {}, NUMBERS, 2, "one objective"),
        ("qmc", {"qmc_type": "latin"}, NUMBERS, 1, "sampler_options: .*latin"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_do(name, options, words, objectives, message):
    with pytest.raises(ConfigError, match=message):
        make_sampler(name, options, 0, read_space({}, words), objectives)


def test_a_grid_has_as_many_points_as_its_ranges_multiply_to():
    space = read_space({}, ["a=1,2,3", "b=range(0, 1, 0.25)", "c=int(interval(1, 2))"])
    assert grid_size(space) == 3 * 4 * 2


def test_two_seeds_draw_differently_and_one_draws_the_same():
    space = read_space({}, NUMBERS)

    def drawn(seed):
        study = optuna.create_study(sampler=make_sampler("random", {}, seed, space, 1))
        return [study.ask(space.distributions).params for _ in range(3)]

    assert drawn(0) == drawn(0)
    assert not any(params in drawn(1) for params in drawn(0))


@pytest.mark.parametrize(
    ("name", "options", "objectives", "message"),
    [
        ("mean", {}, 1, "pruner=mean does not exist; known: none, median"),
        ("median", {"startup": 1}, 1, "pruner_options.startup is not an option"),
        ("median", {}, 2, "needs one objective"),
        ("halving", {"reduction_factor": 1}, 1, "reduction_factor"),
    ],
)
def test_a_pruner_refuses_what_it_cannot_do(name, options, objectives, message):
    with pytest.raises(ConfigError, match=message):
        make_pruner(name, options, objectives)


@pytest.mark.parametrize(("value", "pruned"), [(0.49, True), (0.51, False)])
def test_the_median_pruner_prunes_below_the_median_of_that_epoch(tmp_path, value, pruned):
    """Others had 0.3, 0.5 and 0.9 after epoch 1: the median is 0.5."""
    storage = f"journal:{tmp_path / 'j'}"
    link = TrialLink(storage, "s", 3, "val/accuracy", "median", {"n_startup_trials": 3})
    study = optuna.create_study(storage=open_storage(storage), study_name="s", direction="maximize")
    for others in (0.3, 0.5, 0.9):
        trial: Trial = study.ask()
        trial.report(0.1, 0)
        trial.report(others, 1)
        study.tell(trial, others)
    study.ask()
    trial = link.open()
    assert trial.number == 3
    trial.report(value, 1)
    assert bool(trial.should_prune()) is pruned
    assert study.trials[3].state == TrialState.RUNNING

"""Importances are Optuna's own, with or without a study of the user's."""

import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from run_folders import add_trial, new_study, write_run

from vitfw.comparison.gather import compare
from vitfw.comparison.importance import importances

RANGES = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "model": CategoricalDistribution(["a", "b"]),
}


def drawn(count):
    draw = random.Random(0)
    for _ in range(count):
        lr, model = 10 ** draw.uniform(-4, -1), draw.choice("ab")
        yield {"optimizer.lr": lr, "model": model}, 0.9 - lr + 0.001 * (model == "a")


def test_importances_are_those_that_optuna_gives_for_the_study(tmp_path):
    study = new_study(tmp_path / "s")
    for params, value in drawn(12):
        add_trial(study, params, RANGES, [value])
    add_trial(study, {"optimizer.lr": 1e-2, "model": "a"}, RANGES, None, "PRUNED")
    found, why_not = importances(compare([tmp_path / "s"]))
    own = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    assert found == pytest.approx(own) and why_not == ""
    assert next(iter(found)) == "optimizer.lr"


def test_runs_without_a_study_have_importances_of_the_values_that_occur(tmp_path):
    for i, (params, value) in enumerate(drawn(12)):
        config = {"optimizer.lr": params["optimizer.lr"], "model.kind": params["model"]}
        write_run(tmp_path / str(i), config, metrics={"val/accuracy_best": value})
    found, _ = importances(compare([tmp_path]))
    assert list(found) == ["optimizer.lr", "model.kind"]
    assert sum(found.values()) == pytest.approx(1) and found["optimizer.lr"] > 0.8


def test_lists_and_switches_are_choices(tmp_path):
    for i in range(8):
        config = {"data.img_size": [i % 2, 8], "flip": i % 4 < 2}
        write_run(tmp_path / str(i), config, metrics={"val/accuracy_best": 0.5 + 0.1 * (i % 2)})
    found, _ = importances(compare([tmp_path]))
    assert found["data.img_size"] > 0.9


@pytest.mark.parametrize(
    "count, params, said", [(3, RANGES, "fewer than 4"), (6, ["optimizer.lr"], "no two of them")]
)
def test_too_little_to_tell_from_is_said_in_a_sentence(tmp_path, count, params, said):
    study = new_study(tmp_path / "s")
    for values, value in drawn(count):
        kept = {key: values[key] for key in params}
        add_trial(study, kept, {key: RANGES[key] for key in params}, [value])
    found, why_not = importances(compare([tmp_path / "s"]))
    assert found == {} and said in why_not


def test_reading_a_study_is_quiet(tmp_path, capsys):
    study = new_study(tmp_path / "s")
    for values, value in drawn(5):
        add_trial(study, values, RANGES, [value])
    capsys.readouterr()
    importances(compare([tmp_path / "s"]))
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING

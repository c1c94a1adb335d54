"""What differs between configs, and what only follows from it."""

from vitfw.comparison.differences import differences, short_names
from vitfw.comparison.run import Run


def run(config, *typed, drawn=None):
    return Run("a", None, "finished", config=config, typed=typed, drawn=drawn)


def test_only_keys_that_differ_are_shown_and_the_place_of_a_run_is_none_of_them():
    runs = [
        run({"run_dir": f"runs/{i}", "best.dirpath": f"runs/{i}/checkpoints", "lr": lr, "depth": 6})
        for i, lr in enumerate([1e-3, 3e-4])
    ]
    assert differences(runs) == {"lr": [1e-3, 3e-4]}


def test_a_choice_stands_for_the_keys_that_follow_from_it():
    runs = [
        run(
            {"model.depth": depth, "model.drop": drop, "lr": 1},
            f"model={model}",
            f"model.drop={drop}",
        )
        for model, depth, drop in [("tiny", 3, 0.0), ("small", 12, 0.1), ("tiny", 3, 0.2)]
    ]
    table = {"model": ["tiny", "small", "tiny"], "model.drop": [0.0, 0.1, 0.2]}
    assert differences(runs) == table


def test_a_key_that_differs_within_a_choice_is_shown_though_nobody_typed_it():
    runs = [run({"model.eps": eps}, f"model={m}") for m, eps in [("a", 1), ("a", 2), ("b", 3)]]
    assert differences(runs)["model.eps"] == [1, 2, 3]


def test_of_interpolated_keys_the_typed_one_is_shown():
    runs = [run({"data.seed": s, "seed": s}, f"seed={s}") for s in (0, 1)]
    assert differences(runs) == {"seed": [0, 1]}


def test_a_key_that_one_config_lacks_is_a_dash_there():
    assert differences([run({"a": 1}), run({"a": 1, "b": 2})]) == {"b": ["–", 2]}


def test_of_a_study_the_parameters_are_what_was_drawn():
    runs = [run({"x": i, "y": 1}, drawn={"y": i, "z": 1}) for i in range(2)]
    assert differences(runs) == {"y": [0, 1]}


def test_names_are_as_short_as_they_can_be_told_apart():
    keys = ["optimizer.lr", "model.drop", "loss.drop", "optimizer._target_", "seed"]
    assert list(short_names(keys).values()) == [
        "lr",
        "model.drop",
        "loss.drop",
        "optimizer",
        "seed",
    ]

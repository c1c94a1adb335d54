"""From folders to runs: states, metrics, studies, and what cannot be read."""

import fcntl
import os

import optuna
import pytest
from run_folders import add_trial, new_study, write_run

from vitfw.comparison.gather import compare
from vitfw.comparison.run import find_runs, read_run
from vitfw.errors import ConfigError
from vitfw.report import Ending, write_report
from vitfw.sweep.process_identity import identity

LR = {"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}


def test_runs_are_found_three_levels_down_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "2", "a/b/c", "a/b/d/too_deep", ".hidden"):
        write_run(tmp_path / name)
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
    assert found == ["2", "10", "a/b/c"]


def test_the_state_of_a_run_follows_from_its_files_and_its_lock(tmp_path):
    folders = {name: write_run(tmp_path / name) for name in ("running", "stopped", "failed")}
    folders["finished"] = write_run(tmp_path / "finished", metrics={"pruned": False})
    folders["pruned"] = write_run(tmp_path / "pruned", metrics={"pruned": True})
    for name in ("failed", "stopped"):
        write_report(
            folders[name],
            title="a run",
            summary={},
            history=[],
            config_text="",
            overrides=[],
            command="",
            ending=Ending(name),
        )
    lock = os.open(folders["running"], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert {n: read_run(f, n).state for n, f in folders.items()} == {n: n for n in folders}
    finally:
        os.close(lock)


def test_an_unfinished_run_has_the_best_accuracy_so_far(tmp_path):
    run = read_run(write_run(tmp_path / "a", accuracies=[0.5, 0.75, 0.625]), "a")
    assert run.curve == [(10, 0.5), (20, 0.75), (30, 0.625)]
    assert run.figure("val/accuracy_best") == 0.75


def test_a_damaged_file_is_named_and_its_run_left_out(tmp_path):
    for i, file in enumerate(["metrics.json", "config.yaml", "metrics.csv"]):
        folder = write_run(tmp_path / str(i), metrics={"val/accuracy_best": 0.5})
        (folder / file).write_text("step,val/accuracy\n1,x\n" if "csv" in file else "{")
    write_run(tmp_path / "good", metrics={"val/accuracy_best": 0.5})
    comparison = compare([tmp_path])
    assert [run.name for run in comparison.runs] == ["good"]
    for problem, file in zip(
        comparison.problems, ["metrics.json", "config.yaml", "metrics.csv"], strict=True
    ):
        assert file in problem and "cannot be read" in problem


def test_loose_runs_are_called_by_what_tells_their_folders_apart(tmp_path):
    a = write_run(tmp_path / "one" / "seed0", metrics={"val/accuracy_best": 0.5})
    b = write_run(tmp_path / "two" / "seed0", metrics={"val/accuracy_best": 0.6})
    comparison = compare([a, b])
    assert [run.name for run in comparison.runs] == ["two/seed0", "one/seed0"]
    assert comparison.sweep is None


@pytest.mark.parametrize("journal", [False, True])
def test_a_study_knows_the_states_and_its_folders_the_curves(tmp_path, journal):
    sweep = tmp_path / "search"
    study = new_study(sweep, journal=journal)
    add_trial(study, {"optimizer.lr": 1e-2}, LR, [0.8])
    add_trial(study, {"optimizer.lr": 1e-3}, LR, None, "PRUNED")
    add_trial(study, {"optimizer.lr": 2e-3}, LR, None, "FAIL")
    add_trial(study, {"optimizer.lr": 1e-4}, LR, None, "RUNNING", worker=identity())
    gone = identity().rsplit(" ", 1)[0] + " 1"
    add_trial(study, {"optimizer.lr": 3e-4}, LR, None, "RUNNING", worker=gone)
    write_run(sweep / "0", metrics={"val/accuracy_best": 0.8, "params": 9}, accuracies=[0.7, 0.8])
    write_run(sweep / "1", metrics={"pruned": True}, accuracies=[0.6])
    comparison = compare([sweep])
    assert comparison.sweep == sweep and not comparison.lower
    told = {run.name: run.state for run in comparison.runs}
    assert told == dict(
        zip("01234", ["finished", "pruned", "failed", "running", "orphaned"], strict=True)
    )
    best, second, *_ = comparison.runs
    assert best.curve == [(10, 0.7), (20, 0.8)] and best.figure("params") == 9
    assert second.name == "1" and second.figure("val/accuracy_best") == 0.6
    assert comparison.parameters["optimizer.lr"][:2] == [1e-2, 1e-3]


def test_a_trial_that_was_taken_up_again_is_one_run_in_its_first_folder(tmp_path):
    study = new_study(tmp_path / "s")
    add_trial(study, {"optimizer.lr": 1e-3}, LR, None, "FAIL", orphaned=True)
    add_trial(study, {"optimizer.lr": 1e-2}, LR, [0.5])
    add_trial(study, {}, {}, None, "FAIL", void="it was never begun")
    add_trial(study, {"optimizer.lr": 1e-3}, LR, [0.9], continues=0, retry_of=0)
    write_run(tmp_path / "s" / "0", accuracies=[0.5])
    runs = compare([tmp_path / "s"]).runs
    assert [(r.name, r.state, r.metrics["val/accuracy_best"]) for r in runs] == [
        ("0", "finished", 0.9),
        ("1", "finished", 0.5),
    ]
    assert runs[0].curve == [(10, 0.5)]


def test_the_direction_is_that_of_the_study(tmp_path):
    study = new_study(tmp_path / "s", ["minimize"], ["score"])
    for value in (3.0, 1.0, 2.0):
        add_trial(study, {"optimizer.lr": value / 100}, LR, [value])
    assert [run.figure("score") for run in compare([tmp_path / "s"]).runs] == [1, 2, 3]


def test_a_study_elsewhere_is_found_by_what_the_sweeper_wrote(tmp_path):
    study = new_study(tmp_path / "elsewhere")
    add_trial(study, {"optimizer.lr": 1e-3}, LR, [0.5])
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    storage = f"journal:{tmp_path}/elsewhere/study.journal"
    text = f"hydra: {{sweeper: {{storage: '{storage}', study_name: elsewhere}}}}"
    (sweep / "multirun.yaml").write_text(text)
    assert [run.state for run in compare([sweep]).runs] == ["finished"]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text(""), "is a file"),
        (lambda p: p.mkdir(), "is no run and holds none"),
        (lambda p: (p.mkdir(), (p / "study.db").write_text("no database")), "cannot be read"),
        (lambda p: new_study(p), "has no trial"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path, make, said):
    make(tmp_path / "x")
    with pytest.raises(ConfigError, match=said):
        compare([tmp_path / "x"])

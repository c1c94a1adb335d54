"""A search that is killed in the middle ends as if nothing had happened."""

import json
import time
from pathlib import Path

import optuna
import pytest
from commands import TINY, run, run_from_start, start
from optuna.trial import FrozenTrial, TrialState

from vitfw.callbacks.csv_logger import read_metrics
from vitfw.sweep.orphans import CONTINUES, ORPHANED, RETRY_OF, WORKER, first_of
from vitfw.sweep.process_identity import GONE, fate
from vitfw.sweep.trial_link import JOB

WORDS = [
    "-m",
    "hydra/sweeper=optuna",
    "hydra/launcher=process",
    "hydra.sweep.dir=search",
    "hydra.sweeper.n_trials=3",
    "optimizer.lr=tag(log, interval(1e-3, 1e-2))",
    *TINY,
    "data.limit=0.5",
    "trainer.max_epochs=3",
    "callbacks=essential",
    "logger=csv",
    "callbacks.last.min_seconds=0",
]


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 400
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_search_is_gone_on_with_and_no_trial_is_lost_or_repeated(tmp_path):
    search = tmp_path / "search"
    parent = start("train.py", *WORDS, cwd=tmp_path)
    try:
        wait_for(search / "1/checkpoints/last.ckpt")
        jobs = children_of(parent.pid)
    finally:
        parent.kill()
        parent.communicate()
    begun = study_in(search).trials[1].params
    deadline = time.monotonic() + 10
    while any(map(is_running, jobs)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs
    assert not any(map(is_running, jobs))

    outcome = run("train.py", *WORDS, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "3/3 done" in outcome.out
    trials = study_in(search).trials
    assert [trial.state for trial in trials] == [
        *(TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE)
    ]
    _, orphan, retry, _ = trials
    assert orphan.params == retry.params == begun
    assert (search / "1.log").read_text().count("going on from search/1/checkpoints") == 1
    assert {path.name for path in search.iterdir() if path.is_dir()} == {"0", "1", "3"}
    for folder, trial in zip("013", (trials[0], retry, trials[3]), strict=True):
        metrics = json.loads((search / folder / "metrics.json").read_text())
        assert trial.value == metrics["val/accuracy_best"]
        assert (
            f"optimizer.lr={trial.params['optimizer.lr']!r}"
            in (search / folder / "overrides.yaml").read_text()
        )
        rows = read_metrics(search / folder / "metrics.csv")
        logged = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
        reported = [trial.intermediate_values[epoch] for epoch in range(3)]
        assert reported == pytest.approx(logged)
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 3

    again = run("train.py", *WORDS, cwd=tmp_path)
    assert again.code == 0
    assert len(study_in(search).trials) == 4


def running_of(search: Path, pid: int) -> list[FrozenTrial]:
    """Trials that a worker runs now; `worker` is `machine pid start`."""
    trials = study_in(search).get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [
        trial for trial in trials if trial.user_attrs.get(WORKER, "").split(" ")[1:2] == [f"{pid}"]
    ]


@pytest.mark.slow
def test_of_two_workers_one_is_killed_and_the_other_retries_its_trial(tmp_path):
    search = tmp_path / "search"
    words = [*WORDS, "hydra.sweeper.n_trials=4", "trainer.max_epochs=20"]
    killed, other = [start("train.py", *words, cwd=tmp_path) for _ in range(2)]
    try:
        wait_for(search / "0.log")

        def both_train() -> bool:
            mine = running_of(search, killed.pid)
            saved = [search / f"{first_of(each)}/checkpoints/last.ckpt" for each in mine]
            return any(path.exists() for path in saved) and bool(running_of(search, other.pid))

        deadline = time.monotonic() + 400
        while not both_train() and time.monotonic() < deadline:
            time.sleep(0.05)
        (begun,) = running_of(search, killed.pid)
        killed.kill()
        out, err = other.communicate(timeout=600)
    finally:
        for worker in (killed, other):
            worker.kill()
            worker.communicate()
    assert other.returncode == 0, err
    assert "4/4 done" in out
    trials = study_in(search).trials
    orphan = trials[begun.number]
    assert orphan.state == TrialState.FAIL
    assert orphan.user_attrs[ORPHANED] is True
    (retry,) = [trial for trial in trials if trial.user_attrs.get(RETRY_OF) == orphan.number]
    assert retry.user_attrs[CONTINUES] == orphan.number
    assert retry.params == orphan.params
    log = (search / f"{orphan.number}.log").read_text()
    assert f"going on from search/{orphan.number}/checkpoints" in log
    others = [trial for trial in trials if trial is not orphan]
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 4
    assert len({trial.params["optimizer.lr"] for trial in others}) == 4


@pytest.mark.slow
def test_jobs_of_submitit_report_to_the_study_and_their_results_are_told(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    search = tmp_path / "search"
    launcher = ["hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2"]
    words = [word for word in WORDS if not word.startswith("hydra/launcher")]
    outcome = run_from_start("train.py", *words, *launcher, "trainer.max_epochs=1", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "3/3 done" in outcome.out
    trials = study_in(search).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    for trial in trials:
        metrics = json.loads((search / str(trial.number) / "metrics.json").read_text())
        assert trial.value == metrics["val/accuracy_best"]
        assert list(trial.intermediate_values) == [0]
        assert trial.user_attrs[JOB] != trial.user_attrs[WORKER]
        assert fate(trial.user_attrs[JOB]) == GONE

"""A search is done once: no trial is lost or repeated, whoever dies."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time

import pytest
from fake_search import BEST, SPACE, done, goal_of, score, study_in, worker
from optuna.trial import TrialState

from vitfw.errors import ConfigError
from vitfw.run_directory import RunDirectory
from vitfw.sweep import study as studies
from vitfw.sweep.orphans import CONTINUES, ORPHANED, VOID, WORKER, first_of, queue_orphans
from vitfw.sweep.process_identity import identity
from vitfw.sweep.search import MOST_RETRIES, Stopped
from vitfw.sweep.study import check_folder
from vitfw.sweep.trial_jobs import Result
from vitfw.sweep.trial_link import JOB, PRUNED, trial_of

DEAD = "elsewhere/0/0 1 1"


def params_of(trials):
    return [tuple(sorted(trial.params.items())) for trial in trials]


@pytest.mark.parametrize(
    ("sampler", "storage"),
    [("random", "journal"), ("tpe", None), ("qmc", "journal"), ("cmaes", "journal")],
)
def test_a_search_in_parts_draws_no_parameters_twice(tmp_path, sampler, storage):
    for n_trials in (3, 6):
        search = worker(tmp_path, n_trials, sampler=sampler, storage=storage)
        search.run()
    trials = done(search.study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert len(set(params_of(trials))) == 6
    assert all(trial.value == score(trial.params) for trial in trials)


def test_random_draws_do_not_depend_on_where_a_search_was_stopped(tmp_path):
    for part in (2, 5):
        parts = worker(tmp_path / "parts", part)
        parts.run()
    whole = worker(tmp_path / "whole", 5)
    whole.run()
    assert params_of(done(parts.study)) == params_of(done(whole.study))


def test_a_grid_visits_every_point_once_also_in_parts_and_by_threads(tmp_path):
    goal = goal_of("lr=1e-3,1e-2", "depth=range(1, 4)")
    options = {"sampler": "grid", "goal": goal}
    run = lambda each: Result({BEST: float(each.params["depth"])})  # noqa: E731
    worker(tmp_path, 2, run, **options).run()
    search = worker(tmp_path, 6, run, slots=3, **options)
    search.run()
    found = [(trial.params["lr"], trial.params["depth"]) for trial in done(search.study)]
    assert sorted(found) == [(lr, d) for lr in ("0.001", "0.01") for d in (1, 2, 3)]


def search_in_process(folder, n_trials, seconds):
    def run(each):
        (folder / "launched").touch()
        time.sleep(seconds)
        return Result({BEST: score(dict(each.params))})

    worker(folder, n_trials, run, patience=60.0).run()


def test_two_workers_share_a_study_and_the_trial_of_the_killed_one_is_retried(tmp_path):
    study = study_in(tmp_path, goal_of())
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=search_in_process, args=(tmp_path, 6, 30.0))
    killed.start()
    while not (tmp_path / "launched").exists():
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    folders = []

    def run(each):
        folders.append(each.folder)
        return Result({BEST: score(dict(each.params))})

    worker(tmp_path, 6, run, patience=60.0).run()  # at once: its process is gone from here
    orphan, *others = study.get_trials(deepcopy=False)
    assert orphan.state == TrialState.FAIL
    assert orphan.user_attrs[ORPHANED] is True
    (retry,) = [t for t in others if t.user_attrs.get(CONTINUES) == 0]
    assert retry.params == orphan.params
    assert sorted(folders) == sorted({0, *(t.number for t in others if t is not retry)})
    assert len(done(study)) == 6
    assert len(set(params_of(done(study)))) == 6


def test_two_living_workers_do_not_run_more_than_was_asked_for(tmp_path):
    study = study_in(tmp_path, goal_of())
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=search_in_process, args=(tmp_path, 7, 0.05)) for _ in range(2)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert [each.exitcode for each in workers] == [0, 0]
    assert len(done(study)) == 7
    assert len(set(params_of(done(study)))) == 7


def test_a_worker_elsewhere_counts_as_dead_only_after_its_silence(tmp_path):
    search = worker(tmp_path, 2, patience=0.3)
    asked = search.study.ask(fixed_distributions=search.goal.space.distributions)
    asked.set_user_attr(WORKER, DEAD)
    began = time.monotonic()
    search.run()
    assert time.monotonic() - began >= 0.3
    orphan = search.study.trials[0]
    assert orphan.state == TrialState.FAIL
    assert len(done(search.study)) == 2
    assert orphan.params in [trial.params for trial in done(search.study)]


def test_a_trial_that_died_before_it_had_parameters_is_void(tmp_path):
    search = worker(tmp_path, 2, patience=0.1)
    search.study.ask().set_user_attr(WORKER, DEAD)
    search.run()
    assert VOID in search.study.trials[0].user_attrs
    assert len(done(search.study)) == 2


def test_an_orphan_that_two_workers_queue_is_retried_once(tmp_path):
    search = worker(tmp_path, 1)
    asked = search.study.ask(fixed_distributions=search.goal.space.distributions)
    asked.set_user_attr(ORPHANED, True)
    search.study.tell(asked, state=TrialState.FAIL)
    queue_orphans(search.study)
    queue_orphans(search.study)  # nothing more
    attributes = search.study.trials[1].user_attrs
    assert len(search.study.trials) == 2
    search.study.enqueue_trial(asked.params, user_attrs=attributes)  # as if at the same time
    search.run()
    assert [trial.state for trial in search.study.trials] == [
        *(TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL)
    ]
    assert len(done(search.study)) == 1


def test_a_finished_run_whose_worker_died_is_not_run_again(tmp_path):
    search = worker(tmp_path, 1, lambda each: pytest.fail("it was launched"), patience=0.1)
    asked = search.study.ask(fixed_distributions=search.goal.space.distributions)
    asked.set_user_attr(WORKER, DEAD)
    asked.report(0.5, 0)
    (tmp_path / "0").mkdir()
    (tmp_path / "0/metrics.json").write_text('{"val/accuracy_best": 0.75}')
    search.run()
    (trial,) = done(search.study)
    assert trial.value == 0.75
    assert trial.intermediate_values == {0: 0.5}


def orphan_in(search):
    """The first trial of a search, whose worker has died; a worker retries it in folder 0."""
    asked = search.study.ask(fixed_distributions=search.goal.space.distributions)
    asked.set_user_attr(ORPHANED, True)
    search.study.tell(asked, state=TrialState.FAIL)


def test_a_retry_waits_for_the_run_that_still_trains_and_takes_its_result(tmp_path):
    search = worker(tmp_path, 1, lambda each: pytest.fail("it was launched"))
    orphan_in(search)
    still_training = RunDirectory(tmp_path / "0")
    still_training.open()

    def finish():
        still_training.write_metrics({BEST: 0.75})
        still_training.close()

    timer = threading.Timer(0.2, finish)
    timer.start()
    search.run()
    timer.join()
    assert [trial.value for trial in done(search.study)] == [0.75]


def test_a_retry_that_finds_its_folder_taken_at_the_last_moment_is_launched_again(tmp_path):
    refused = []

    def run(each):
        if refused:
            return Result({BEST: 0.5})
        other = RunDirectory(tmp_path / "0")
        other.open()
        with pytest.raises(ConfigError) as error:
            RunDirectory(tmp_path / "0").open()
        other.close()
        refused.append(str(error.value))
        return Result(error=refused[0])

    search = worker(tmp_path, 1, run)
    orphan_in(search)
    search.run()
    assert len(refused) == 1
    assert [trial.state for trial in search.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_search_that_waits_for_a_run_can_be_stopped(tmp_path):
    search = worker(tmp_path, 1, asked_to_stop=iter([None, None, 130]).__next__)
    orphan_in(search)
    still_training = RunDirectory(tmp_path / "0")
    still_training.open()
    with pytest.raises(Stopped):
        search.run()
    still_training.close()
    search = worker(tmp_path, 1)
    search.run()
    assert [trial.state for trial in done(search.study)] == [TrialState.COMPLETE]


def test_a_trial_whose_job_is_lost_again_and_again_has_failed(tmp_path):
    search = worker(tmp_path, 2, lambda each: Result(error="cut off", lost=each.folder == 0))
    search.run()
    failed, other = sorted(done(search.study), key=first_of)
    assert failed.user_attrs["error"] == "cut off"
    assert sum(first_of(trial) == 0 for trial in search.study.trials) == 1 + MOST_RETRIES
    assert sum(first_of(trial) == first_of(other) for trial in search.study.trials) == 1


def test_a_lost_trial_whose_job_lives_elsewhere_is_waited_for(tmp_path):
    """Its job tells its result by its folder, once it is silent."""

    def run(each):
        trial_of(search.study, each.trial).set_user_attr(JOB, "another/machine 1 2")
        (tmp_path / str(each.folder)).mkdir()
        (tmp_path / str(each.folder) / "metrics.json").write_text('{"val/accuracy_best": 0.75}')
        return Result(error="another job ended badly", lost=True)

    search = worker(tmp_path, 1, run, patience=0.2)
    search.run()
    (trial,) = done(search.study)
    assert trial.value == 0.75


def test_a_fresh_trial_takes_no_result_that_lay_in_its_folder(tmp_path):
    search = worker(tmp_path, 2)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/metrics.json").write_text('{"val/accuracy_best": 0.75}')
    search.run()
    assert [trial.state for trial in search.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert search.study.trials[1].user_attrs["error"] == f"{tmp_path}/1 holds another run"


@pytest.mark.parametrize("file", ["config.yaml", "metrics.json"])
@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_new_study_begins_in_no_folder_with_runs_of_another(tmp_path, file, storage):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / file).write_text("{}")
    with pytest.raises(ConfigError, match=f"{tmp_path} holds runs .*(3).*another hydra.sweep.dir"):
        study_in(tmp_path, goal_of(), storage=storage)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_what_is_no_numbered_run_is_in_no_new_study_s_way(tmp_path):
    for folder in ("checkpoints", "4th", "5"):
        (tmp_path / folder).mkdir()
    (tmp_path / "4th/config.yaml").write_text("{}")
    study_in(tmp_path, goal_of())


def test_a_worker_is_not_refused_by_the_first_run_of_one_that_began_with_it(tmp_path, monkeypatch):
    """The other asks for its trial while this one looks into the folder."""

    def look(folder):
        if not study.trials:
            study.ask(fixed_distributions=goal_of().space.distributions)
        return True

    study = study_in(tmp_path, goal_of())
    (tmp_path / "0").mkdir()
    monkeypatch.setattr(studies, "is_run", look)
    check_folder(tmp_path, f"journal:{tmp_path}/study.journal", "study")


@pytest.mark.parametrize("ends_first", [False, True])
def test_a_stopped_worker_leaves_a_trial_to_its_job_for_as_long_as_that_lives(tmp_path, ends_first):
    job = subprocess.Popen(["sleep", "60"])

    def stop(each):
        trial_of(search.study, each.trial).set_user_attr(JOB, identity(job.pid))
        if ends_first:
            end()
        raise KeyboardInterrupt

    def end():
        job.kill()
        job.wait()

    search = worker(tmp_path, 1, stop)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    states = [trial.state for trial in search.study.trials]
    left = [TrialState.FAIL, TrialState.WAITING] if ends_first else [TrialState.RUNNING]
    assert states == left
    end()
    if not ends_first:  # its worker has gone, too
        trial_of(search.study, 0).set_user_attr(WORKER, identity(job.pid))
    search = worker(tmp_path, 1)
    search.run()
    assert [trial.user_attrs.get(CONTINUES) for trial in done(search.study)] == [0]


def test_a_stopped_search_leaves_its_trial_for_the_next(tmp_path):
    def stop(each):
        raise Stopped(143)

    with pytest.raises(SystemExit) as stopped:
        worker(tmp_path, 3, stop).run()
    assert stopped.value.code == 143
    search = worker(tmp_path, 3)
    search.run()
    assert len(done(search.study)) == 3
    assert search.study.trials[0].params in [t.params for t in done(search.study)]
    assert [t.user_attrs.get(CONTINUES) for t in done(search.study)] == [0, None, None]


def test_a_search_that_waits_for_others_can_be_stopped(tmp_path):
    search = worker(tmp_path, 1, asked_to_stop=iter([None, None, 130]).__next__)
    search.study.ask(fixed_distributions=search.goal.space.distributions).set_user_attr(
        WORKER, DEAD
    )
    with pytest.raises(SystemExit) as stopped:
        search.run()
    assert stopped.value.code == 130


def test_failed_trials_are_recorded_and_the_search_goes_on(tmp_path):
    def run(each):
        value = float("nan") if each.folder == 2 else score(dict(each.params))
        return Result(error="out of memory") if each.folder == 1 else Result({BEST: value})

    search = worker(tmp_path, 5, run)
    search.run()
    trials = search.study.trials
    assert [trial.state == TrialState.FAIL for trial in trials] == [0, 1, 1, 0, 0]
    assert trials[1].user_attrs["error"] == "out of memory"
    assert trials[2].user_attrs["error"] == "val/accuracy_best is nan"


def test_a_search_whose_first_trials_all_fail_is_given_up(tmp_path):
    search = worker(tmp_path, 20, lambda each: Result(error="no such file"))
    with pytest.raises(ConfigError, match="the first 3 trials all failed.*no such file"):
        search.run()
    assert len(search.study.trials) == 3


def test_a_run_that_says_it_was_pruned_is_told_as_pruned(tmp_path):
    def run(each):
        trial = trial_of(search.study, each.trial)
        trial.report(0.25, 0)
        if each.folder == 1:
            trial.set_user_attr(PRUNED, 0)
        return Result({BEST: 0.5})

    search = worker(tmp_path, 3, run)
    search.run()
    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]


def test_several_objectives_are_told_together(tmp_path):
    goal = goal_of(*SPACE, metrics=(BEST, "train/images_per_second"))
    run = lambda each: Result({BEST: 0.5, "train/images_per_second": 90.0})  # noqa: E731
    search = worker(tmp_path, 2, run, goal=goal)
    search.run()
    assert [trial.values for trial in search.study.trials] == [[0.5, 90.0]] * 2


def test_the_best_of_a_logged_column_is_the_objective(tmp_path):
    def run(each):
        folder = tmp_path / str(each.folder)
        folder.mkdir()
        (folder / "metrics.csv").write_text("step,val/accuracy\n1,0.5\n2,\n3,0.75\n4,nan\n")
        return Result({})

    search = worker(tmp_path, 1, run, goal=goal_of(metrics=("val/accuracy",)))
    search.run()
    assert search.study.trials[0].value == 0.75


@pytest.mark.parametrize(
    ("words", "metric", "message"),
    [
        (SPACE, "val/loss", "metric: val/accuracy_best → val/loss"),
        ([SPACE[0], "depth=int(interval(1, 8))"], BEST, "the range of depth"),
        ([*SPACE, "seed=1"], BEST, "overrides: none → seed=1"),
    ],
)
def test_a_study_of_another_search_is_not_gone_on_with(tmp_path, words, metric, message):
    worker(tmp_path, 1).run()
    with pytest.raises(ConfigError, match=message):
        study_in(tmp_path, goal_of(*words, metrics=(metric,)))

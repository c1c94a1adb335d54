"""A search with Hydra's launchers: a trial becomes a job, its result a value."""

import io
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.vitfw_sweeper._sweep_request import SweepRequest, best_command

if TYPE_CHECKING:
    from optuna.study import Study

    from vitfw.sweep.trial_jobs import Launch, Request, Result

PROCESS = "ProcessLauncher"
STOPPED_CODES = (130, 143)
MOST_SHOWN = 10  # best trials of several objectives


def run_search(
    request: SweepRequest, config: DictConfig, context: HydraContext, task: TaskFunction
) -> None:
    """Open the study and work on it until it is done.

    Raises:
        ConfigError: the study or its storage cannot be used, or the first trials all failed.
        SystemExit: the search was stopped; the same command goes on with it.
    """
    from vitfw.console import log, setup_logging
    from vitfw.sweep.jobs import Jobs
    from vitfw.sweep.pruners import make_pruner
    from vitfw.sweep.samplers import make_sampler
    from vitfw.sweep.search import Search
    from vitfw.sweep.storage import name_storage, open_storage, shown
    from vitfw.sweep.study import check_folder, open_study

    setup_logging()
    options, goal = request.options, request.goal
    name = options["study_name"] or request.folder.absolute().name
    objectives = len(goal.metrics)
    sampler = make_sampler(
        options["sampler"], options["sampler_options"], options["seed"], goal.space, objectives
    )
    pruner = make_pruner(options["pruner"], request.pruner_options, objectives)
    storage = name_storage(options["storage"], request.folder)
    check_folder(request.folder, storage, name)
    study = open_study(open_storage(storage), name, goal, sampler, pruner)

    request.folder.mkdir(parents=True, exist_ok=True)
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(request.folder)
        hide_password(config)
    OmegaConf.save(config, request.folder / "multirun.yaml")

    def folder_of(number: int) -> Path:
        return request.folder / str(number)

    def link_of(trial: int) -> str:
        from vitfw.sweep.trial_link import TrialLink

        pruning = (options["pruner"], request.pruner_options)
        patience = options["patience_seconds"]
        return TrialLink(storage, name, trial, request.pruned_by, *pruning, patience).as_text()

    in_processes = str(config.hydra.launcher._target_).endswith(PROCESS)
    at_once = max(options["n_jobs"], config.hydra.launcher.get("n_jobs") or 1)
    jobs = Jobs()
    if in_processes:
        launch = in_own_processes(jobs, request, folder_of, link_of, config)
    else:
        launch = through_hydra(request, folder_of, link_of, config, context, task)
    search = Search(
        study,
        goal,
        launch,
        folder_of,
        request.n_trials,
        grid=request.grid,
        slots=at_once if in_processes else 1,
        batch=1 if in_processes else at_once,
        patience=options["patience_seconds"],
        asked_to_stop=lambda: jobs.exit_code,
    )
    log.info(f"a search of {request.n_trials} trials, in {request.folder}")
    with jobs.stoppable() if in_processes else nullcontext():
        search.run()
    close_search(study, request, shown(storage))


def hide_password(config: DictConfig) -> None:
    """In the storage, and in the words that were typed: `multirun.yaml` may be shared.

    Who reads the storage back from there at the end of the sweep finds it in the environment.
    """
    from vitfw.sweep.storage import remember_password, shown

    def hidden(word: str) -> str:
        key, _, value = word.partition("=")
        return f"{key}={shown(value)}" if key.lstrip("+") == "hydra.sweeper.storage" else word

    if config.hydra.sweeper.storage is not None:
        remember_password(config.hydra.sweeper.storage)
        config.hydra.sweeper.storage = shown(config.hydra.sweeper.storage)
    config.hydra.overrides.hydra = [hidden(word) for word in config.hydra.overrides.hydra]


def in_own_processes(
    jobs: Any,
    request: SweepRequest,
    folder_of: Callable[[int], Path],
    link_of: Callable[[int], str],
    config: DictConfig,
) -> "Launch":
    """Each trial is a `python -m vitfw train …`; what it prints is kept in NUMBER.log."""
    from vitfw.sweep.jobs import Job
    from vitfw.sweep.search import Stopped
    from vitfw.sweep.trial_jobs import Result
    from vitfw.sweep.trial_link import TRIAL_VARIABLE

    typed: Any = OmegaConf.to_container(config.hydra.job.env_set)

    def launch(requests: "list[Request]") -> "list[Result]":
        results = []
        for each in requests:
            folder = folder_of(each.folder)
            job = Job(
                request.goal.space.words(each.params),
                folder,
                {**typed, TRIAL_VARIABLE: link_of(each.trial)},
                output=folder.with_name(f"{folder.name}.log"),
            )
            ended = jobs.run_one(job)
            if jobs.exit_code is not None and ended.metrics is None:
                raise Stopped(jobs.exit_code)
            results.append(Result(ended.metrics, ended.error))
        return results

    return launch


def through_hydra(
    request: SweepRequest,
    folder_of: Callable[[int], Path],
    link_of: Callable[[int], str],
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
) -> "Launch":
    """Through any other launcher of Hydra's; jobs that are launched together end together."""
    from vitfw.sweep.objective import finished_metrics
    from vitfw.sweep.search import Stopped
    from vitfw.sweep.trial_jobs import Result
    from vitfw.sweep.trial_link import TRIAL_VARIABLE

    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task, config=config
    )

    def launch(requests: "list[Request]") -> "list[Result]":
        overrides = [
            [
                *request.goal.space.words(each.params),
                f"hydra.sweep.dir={quoted(str(request.folder.absolute()))}",  # composed anew
                f"hydra.sweep.subdir={each.folder}",
                f"++hydra.job.env_set.{TRIAL_VARIABLE}={quoted(link_of(each.trial))}",
            ]
            for each in requests
        ]
        try:
            returned = launcher.launch(overrides, initial_job_idx=requests[0].folder)
        except SystemExit as error:
            if error.code in STOPPED_CODES:
                raise Stopped(error.code) from error
            return [lost(folder_of(each.folder), error) for each in requests]
        except Exception as error:  # a job of another process or machine that ended badly
            return [lost(ended(folder_of(each.folder)), error) for each in requests]
        return [
            result_in(folder_of(each.folder), job)
            for each, job in zip(requests, returned, strict=True)
        ]

    def lost(folder: Path, error: BaseException) -> Result:
        """Whose error it was is not told: what is not done of the batch is taken up again."""
        found = finished_metrics(folder)
        return Result(found) if found is not None else Result(error=reason_of(error), lost=True)

    def result_in(folder: Path, job: JobReturn) -> Result:
        if (found := finished_metrics(folder)) is not None:
            return Result(found)
        if job.status != JobStatus.COMPLETED:
            error = failure_of(job)
            cut_off = isinstance(error, SystemExit) and error.code in STOPPED_CODES
            return Result(error=reason_of(error), lost=cut_off)
        value = job.return_value
        return Result(value if isinstance(value, Mapping) else {})

    return launch


def ended(folder: Path) -> Path:
    """The folder, once nothing trains there: of a batch, one job's error says nothing of others."""
    from vitfw.atomic import is_held
    from vitfw.sweep.trial_jobs import POLL_SECONDS

    while is_held(folder):
        time.sleep(POLL_SECONDS)
    return folder


def failure_of(job: JobReturn) -> BaseException:
    """What a failed job raised; Hydra prints as it gives it out."""
    try:
        with redirect_stderr(io.StringIO()):
            _ = job.return_value
    except BaseException as error:
        return error
    return RuntimeError("the job failed")


def reason_of(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ended with exit code {error.code}"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def quoted(text: str) -> str:
    """A value that Hydra takes as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def close_search(study: "Study", request: SweepRequest, storage: str) -> None:
    """What was found, and where everything is."""
    from optuna.trial import TrialState

    from vitfw.console import console
    from vitfw.sweep.orphans import first_of

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    lines = []
    if finished:
        for trial in study.best_trials[:MOST_SHOWN]:
            values = "  ".join(
                f"{metric} {value:.6g}"
                for metric, value in zip(request.goal.metrics, trial.values or (), strict=True)
            )
            lines.append(f"best          {values}  (trial {first_of(trial)})")
            lines.append(f"              {best_command(request.goal.space, trial.params)}")
    lines += [
        f"the search    {request.folder}",
        f"its study     {storage}",
        f"compare       vitfw compare {request.folder}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)

"""`hydra/launcher=process`: each job of a sweep is a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class ProcessLauncherConfig:
    """`n_jobs`: how many run at once. More than one keep what they print in NUMBER.log."""

    _target_: str = "hydra_plugins.vitfw_sweeper.process_launcher.ProcessLauncher"
    n_jobs: int = 1


ConfigStore.instance().store(
    group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="vitfw"
)


class ProcessLauncher(Launcher):
    """Types `python -m vitfw train OVERRIDES run_dir=FOLDER` for each job.

    Memory does not grow from job to job, and a report shows a command that can be typed.
    """

    def __init__(self, n_jobs: int = 1):
        self.n_jobs = n_jobs
        self.config: Any = None
        self.context: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all of them; one that fails does not stop the others.

        Raises:
            ConfigError: these are no jobs of `vitfw train`.
            SystemExit: some failed, and a line has said which; or the sweep was stopped.
        """
        from vitfw.cli.app import say_error
        from vitfw.console import log, setup_logging
        from vitfw.errors import ConfigError
        from vitfw.sweep.jobs import Ended, Job, Jobs

        setup_logging()
        if (command := self.config.hydra.job.config_name) != "train":
            raise ConfigError(
                f"hydra/launcher=process runs jobs of vitfw train; vitfw {command} takes "
                "hydra/launcher=basic"
            )
        if self.n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs={self.n_jobs} must be at least 1")
        jobs = [
            self._job(list(words), initial_job_idx + place)
            for place, words in enumerate(job_overrides)
        ]
        places = {id(job): place for place, job in enumerate(jobs)}
        outcomes: list[Ended] = [Ended(0)] * len(jobs)

        def ended(job: Job, outcome: Ended) -> None:
            outcomes[places[id(job)]] = outcome
            if self.n_jobs > 1:
                log.info(f"job {job.folder.name}: {outcome.error or 'done'}")

        Jobs().run(jobs, self.n_jobs, ended)
        failed = [(job, each) for job, each in zip(jobs, outcomes, strict=True) if each.code]
        if failed:
            names = "; ".join(f"{job.folder} ({each.error})" for job, each in failed)
            # Hydra calls back after sweeps without failures only: this one's report is due, too
            self.context.callbacks.on_multirun_end(config=self.config, config_name=command)
            say_error(f"{len(failed)} of {len(jobs)} jobs failed: {names}")
            raise SystemExit(max(failed[0][1].code, 1))
        return [
            JobReturn(overrides=job.words, status=JobStatus.COMPLETED, _return_value=each.metrics)
            for job, each in zip(jobs, outcomes, strict=True)
        ]

    def _job(self, words: list[str], number: int) -> Any:
        from vitfw.sweep.jobs import Job

        composed = self.context.config_loader.load_sweep_config(self.config, words)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        folder = Path(composed.hydra.sweep.dir) / str(composed.hydra.sweep.subdir)
        environment: Any = OmegaConf.to_container(composed.hydra.job.env_set)
        return Job(
            [word for word in words if not word.lstrip("+~").startswith(("hydra.", "hydra/"))],
            folder,
            environment=environment,
            output=folder.with_name(f"{folder.name}.log") if self.n_jobs > 1 else None,
        )

"""Jobs are processes: they say why they failed, and neither outlive nor outrun who started them."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vitfw.sweep.jobs import Ended, Job, Jobs


class Script(Job):
    """Stands for `vitfw train`: its words are lines of shell, `$0` its folder."""

    @property
    def command(self) -> list[str]:
        return ["sh", "-c", "\n".join(self.words), str(self.folder)]


def test_a_job_is_a_command_that_can_be_typed():
    words = Job(["model=vit_nano", "optimizer.lr=0.1"], Path("sweep/3")).command[1:]
    assert words == [
        *("-m", "vitfw", "train", "model=vit_nano", "optimizer.lr=0.1", "run_dir=sweep/3")
    ]


@pytest.mark.parametrize(
    ("line", "ended"),
    [
        ("echo start >&2; echo 'error: no data' >&2; exit 2", Ended(2, error="no data")),
        ("exit 1", Ended(1, error="ended with exit code 1")),
        ("kill -9 $$", Ended(-9, error="killed by SIGKILL")),
        ('mkdir "$0"; echo \'{"steps": 3}\' > "$0/metrics.json"', Ended(0, metrics={"steps": 3})),
    ],
)
def test_a_job_ends_with_its_metrics_or_its_last_word(tmp_path, line, ended):
    assert Jobs().run_one(Script([line], tmp_path / "0")) == ended


def test_what_a_job_prints_is_kept_and_its_environment_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    lines = ["echo $TRIAL $HYDRA_FULL_ERROR", "echo more >&2"]
    Jobs().run_one(Script(lines, tmp_path / "0", {"TRIAL": "7"}, tmp_path / "0.log"))
    assert sorted((tmp_path / "0.log").read_text().split()) == ["7", "more"]


def test_a_failed_job_does_not_stop_the_others(tmp_path):
    codes = {}
    jobs = [Script([f"exit {code}"], tmp_path / str(code)) for code in (3, 0, 2)]
    Jobs().run(jobs, 2, lambda job, ended: codes.update({job.folder.name: ended.code}))
    assert codes == {"3": 3, "0": 0, "2": 2}


def run_script(folder: Path, line: str) -> None:
    Jobs().run([Script([line], folder / "0")], 1, lambda job, ended: None)


def started(folder: Path, line: str) -> tuple[multiprocessing.Process, int]:
    """A process that runs the script, and the script's number, which it writes to a file."""
    process = multiprocessing.get_context("fork").Process(target=run_script, args=(folder, line))
    process.start()
    number = folder / "number"
    wait_until(lambda: number.exists() and number.read_text().endswith("\n"))
    return process, int(number.read_text())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_sigterm_and_ctrl_c_let_the_jobs_save(tmp_path):
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        folder = tmp_path / str(code)
        folder.mkdir()
        line = f"trap 'touch {folder}/saved; exit 143' TERM; echo $$ > {folder}/number; "
        process, _ = started(folder, line + "while :; do sleep 0.05; done")
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(30)
        assert process.exitcode == code
        assert (folder / "saved").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel does it on Linux")
def test_a_job_dies_with_who_started_it(tmp_path):
    process, job = started(tmp_path, f"echo $$ > {tmp_path}/number; exec sleep 60")
    assert not has_ended(job)
    process.kill()
    process.join()
    wait_until(lambda: has_ended(job))

"""Why a run went no further, and what to type now."""

import errno
import shlex
import time

from vitfw.errors import ConfigError
from vitfw.finish.closing import command_words
from vitfw.finish.run import Run
from vitfw.report import Advice
from vitfw.request_check import SAM, check_automatic
from vitfw.training.schedules import is_cooldown

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def in_one_line(error: BaseException) -> str:
    """`ValueError: what it says`; of an error from a worker process, the original one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    from_worker = lines[0].startswith("Caught ")  # then its whole traceback follows
    return lines[-1] if from_worker else f"{type(error).__name__}: {lines[0]}"


def ways_out(error: BaseException, run: Run) -> list[Advice]:
    """What helps against errors that are no bugs."""
    said = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return [Advice("The disk is full: make room first.")]
    if "out of memory" in said or "can't allocate memory" in said or isinstance(error, MemoryError):
        return [Advice("A step did not fit into memory. In smaller pieces:", smaller(run))]
    if "dataloader worker" in said and ("killed" in said or "exited unexpectedly" in said):
        return [
            Advice(
                "A process that reads data was killed, usually for want of memory. With fewer:",
                f"data.num_workers={max(run.data.num_workers // 2, 0)}",
            )
        ]
    return []


def smaller(run: Run) -> str:
    """What to type for less memory a step: where it can be found by trying, that."""
    try:
        check_automatic(run.cfg, run.cfg["trainer"])
        findable = run.trainer.world_size == 1 and not run.cfg["auto_batch_size"]
    except ConfigError:
        findable = False
    if findable:
        return "auto_batch_size=true"
    batch = f"data.batch_size={max(run.data.batch_size // 2, 1)}"
    if run.cfg["optimizer"]["_target_"] == SAM:  # looks at each batch twice
        return batch
    return f"{batch} trainer.accumulate_grad_batches={2 * run.trainer.accumulate_grad_batches}"


def going_on(run: Run) -> Advice:
    """The command that takes the run up again."""
    saved, words = run.directory.last_checkpoint, command_words(run.overrides)
    if not saved.is_file():
        return Advice("Nothing was saved yet; the same command begins anew:", shlex.join(words))
    at = time.strftime("%H:%M:%S", time.localtime(saved.stat().st_mtime))
    there = f"goes on from checkpoints/last.ckpt, saved at {at}:"
    by_itself = is_cooldown(run.cfg["scheduler"])  # resume=PATH is where it begins
    if run.cfg["resume"] == "auto" or by_itself:
        return Advice(f"The same command {there}", shlex.join(words))
    words = [word for word in words if not word.startswith("resume=")]
    return Advice(f"With resume=auto it {there}", shlex.join([*words, "resume=auto"]))

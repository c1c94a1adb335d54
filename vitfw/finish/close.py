"""The three ways a run ends: at its end, by an error, or because it was asked to stop."""

import shutil
import traceback
from dataclasses import replace

from vitfw.callbacks.loggers import end_logging
from vitfw.finish.account import attempt, last_lines, reached, write_account
from vitfw.finish.cause import going_on, in_one_line, ways_out
from vitfw.finish.closing import say_closing, say_stopped
from vitfw.finish.metrics import Metrics, best_val_accuracy, gather_metrics, measure_best
from vitfw.finish.run import Run
from vitfw.report import Ending
from vitfw.training.linear_probe import LinearProbe


def close_run(run: Run) -> Metrics:
    """Test, write what is to be written, say where it is. Returns what `metrics.json` holds.

    A run that a search has pruned is not tested.
    """
    trainer, directory = run.trainer, run.directory
    best = best_val_accuracy(run.callbacks)  # the test restores callbacks from the checkpoint
    epochs, steps = trainer.current_epoch, trainer.global_step
    testing = run.cfg["test_after_fit"] and not run.pruned
    tested = measure_best(run) if testing else {}
    metrics = gather_metrics(run, tested, best, epochs, steps)
    if trainer.is_global_zero:
        if best is not None:
            for logger in trainer.loggers:
                logger.log_metrics({"val/accuracy_best": best}, step=steps)
        end_logging(trainer.loggers, "finished")
        ending = Ending()
        if run.pruned:
            place = f"after epoch {epochs} of {trainer.max_epochs}, step {steps:,}"
            cause = "Others of the search were better at this point. It was not tested."
            ending = Ending("pruned", place, cause)
        write_account(run, metrics, ending, tested=bool(tested))
        if isinstance(run.learner, LinearProbe):  # a run that is finished does not go on
            shutil.rmtree(directory.path / "features", ignore_errors=True)
        directory.write_metrics(metrics)
        say_closing(metrics, run)
    return metrics


def report_stop(run: Run) -> None:
    """Leave the report of a run that was asked to stop, and say how it goes on."""
    by = "Ctrl-C" if getattr(run.callbacks.get("last"), "interrupted", False) else "SIGTERM"
    ending = Ending("stopped", run.place, f"Asked to stop by {by}.", advice=[going_on(run)])
    write_unfinished(run, ending)
    say_stopped(run.directory)


def report_failure(run: Run, error: Exception) -> None:
    """Leave the report of a run that broke: where, why, how far it had come, what to type."""
    ending = Ending(
        "failed",
        run.place,
        in_one_line(error),
        advice=[*ways_out(error, run), going_on(run)],
        traceback="".join(traceback.format_exception(error)),
    )
    write_unfinished(run, ending)


def write_unfinished(run: Run, ending: Ending) -> None:
    """Never raises: what ended the run is what the user is to see."""

    def write() -> None:
        attempt("loggers", lambda: end_logging(run.trainer.loggers, ending.status), None)
        best = best_val_accuracy(run.callbacks)
        trainer = run.trainer
        done = trainer.current_epoch, trainer.global_step
        metrics = attempt("metrics", lambda: gather_metrics(run, {}, best, *done), {})
        told = replace(
            ending,
            reached=reached(run, best),
            log=last_lines(run.directory.path / "train.log"),
        )
        write_account(run, metrics, told, tested=False)

    attempt("all of it", write, None)

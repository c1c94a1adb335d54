"""How far a search has come, in a line for each trial."""

from collections import Counter
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from vitfw.console import log
from vitfw.sweep.objective import MAXIMIZE
from vitfw.sweep.orphans import first_of, is_orphaned, is_void


class Progress:
    """Prints; a trial is called by its folder's number."""

    def __init__(self, study: Study, directions: Sequence[str], n_trials: int):
        self.study = study
        self.directions = directions
        self.n_trials = n_trials
        self._waiting = 0

    def say(self, number: int, seconds: float) -> None:
        """A trial has ended."""
        trials = self.study.get_trials(deepcopy=False)
        states = Counter(trial.state for trial in trials if self._counts(trial))
        ended = sum(count for state, count in states.items() if state.is_finished())
        trial = trials[number]
        parts = [
            f"trial {first_of(trial)}",
            outcome(trial),
            best_line(trials, self.directions),
            f"{ended}/{self.n_trials} done",
            f"{states[TrialState.RUNNING]} running",
            f"{states[TrialState.PRUNED]} pruned",
            f"{states[TrialState.FAIL]} failed",
            f"{seconds:.0f} s",
        ]
        log.info("  ".join(part for part in parts if part))

    def say_waiting(self, count: int) -> None:
        if count != self._waiting:
            self._waiting = count
            log.info(f"waiting for {count} trial{'s' * (count > 1)} of other workers")

    @staticmethod
    def _counts(trial: FrozenTrial) -> bool:
        return not is_void(trial) and not is_orphaned(trial)


def outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return "  ".join(f"{value:.6g}" for value in trial.values or ())
    if trial.state == TrialState.PRUNED:
        return f"pruned at epoch {trial.last_step}"
    return f"failed: {trial.user_attrs.get('error')}"


def best_trial(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> FrozenTrial | None:
    """The best finished trial, the first of equals; None with none, or several objectives."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not finished or len(directions) > 1:
        return None
    sign = 1.0 if directions[0] == MAXIMIZE else -1.0
    return max(finished, key=lambda trial: sign * (trial.value or 0.0))


def best_line(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> str:
    best = best_trial(trials, directions)
    return f"best {best.value:.6g} (trial {first_of(best)})" if best else ""

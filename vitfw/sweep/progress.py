"""How far a search has come, in a line for each trial that fits into 80 columns."""

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

    def say_begun(self) -> None:
        """What there was before, where the search is gone on with."""
        trials = self.study.get_trials(deepcopy=False)
        if trials:
            log.info("  ".join(["going on", *self._state(trials)]))

    def say(self, number: int, seconds: float) -> None:
        """A trial has ended."""
        trials = self.study.get_trials(deepcopy=False)
        trial = trials[number]
        state = self._state(trials)
        log.info(
            "  ".join([f"trial {first_of(trial)}", outcome(trial), *state, f"{seconds:.0f} s"])
        )

    def _state(self, trials: Sequence[FrozenTrial]) -> list[str]:
        """`best 0.9312 (trial 4)`, `7/20 done`, `1 running`, `2 pruned`."""
        states = Counter(trial.state for trial in trials if self._counts(trial))
        ended = sum(count for state, count in states.items() if state.is_finished())
        failed = states[TrialState.FAIL]
        parts = [
            best_line(trials, self.directions),
            f"{ended}/{self.n_trials} done",
            f"{states[TrialState.RUNNING]} running",
            f"{states[TrialState.PRUNED]} pruned",
            f"{failed} failed" if failed else "",
        ]
        return [part for part in parts if part]

    def say_waiting(self, count: int) -> None:
        if count != self._waiting:
            self._waiting = count
            log.info(f"waiting for {count} trial{'s' * (count > 1)} of other workers")

    @staticmethod
    def _counts(trial: FrozenTrial) -> bool:
        return not is_void(trial) and not is_orphaned(trial)


def outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return "  ".join(f"{value:.4g}" for value in trial.values or ())
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
    return f"best {best.value:.4g} (trial {first_of(best)})" if best else ""

"""Says of the trials of this process, be it their worker or a job, that they are alive."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.trial import Trial

from vitfw.sweep.trial_link import ALIVE

LONGEST_BEAT = 10.0


def beat_seconds(patience: float) -> float:
    """How often, so that who waits for `patience` seconds hears of it several times."""
    return min(LONGEST_BEAT, patience / 4)


@contextmanager
def beating(trials: list[Trial], seconds: float) -> Iterator[None]:
    """Renew `alive` of the trials every so many seconds, from a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            for trial in trials:
                try:
                    trial.set_user_attr(ALIVE, time.time())
                except Exception:  # told by another, or a storage out of reach for once
                    continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

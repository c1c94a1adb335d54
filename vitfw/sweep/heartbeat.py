"""Says of the trials of this worker that they are alive."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from vitfw.sweep.trial_link import ALIVE


@contextmanager
def beating(trials: list[Trial], seconds: float) -> Iterator[None]:
    """Renew `alive` of the trials every so many seconds, from a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            for trial in trials:
                try:
                    trial.set_user_attr(ALIVE, time.time())
                except (UpdateFinishedTrialError, SQLAlchemyError, OSError):
                    continue  # told by another, or out of reach for once

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

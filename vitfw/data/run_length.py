"""How long a run is, counted in batches."""

import math
from typing import Any


def batches_of_run(trainer: Any) -> int | None:
    """Batches that each process takes until the trainer's epochs or steps are over, whichever
    are first; None where it has limits of neither kind.

    A step gathers `accumulate_grad_batches`, or what an epoch has left of them at its end.
    """
    taken = int(trainer.num_training_batches)  # of each epoch: it may be limited
    limits = []
    if (trainer.max_epochs or 0) > 0:
        limits.append(taken * trainer.max_epochs)
    if trainer.max_steps > 0:
        gathered = trainer.accumulate_grad_batches
        epochs, steps = divmod(trainer.max_steps, math.ceil(taken / gathered))
        limits.append(epochs * taken + steps * gathered)
    return min(limits, default=None)

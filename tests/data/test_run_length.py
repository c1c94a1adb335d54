"""The batches of a run, against a count of one batch after the other."""

from itertools import product
from types import SimpleNamespace

import pytest

from vitfw.data.run_length import batches_of_run


def trainer(taken: int, gathered: int, epochs: int | None, steps: int) -> SimpleNamespace:
    return SimpleNamespace(
        num_training_batches=taken,
        accumulate_grad_batches=gathered,
        max_epochs=epochs,
        max_steps=steps,
    )


def walked(taken: int, gathered: int, steps: int) -> int:
    """The number of the batch that ends the last step."""
    batch = made = 0
    while made < steps:
        batch += 1
        place = (batch - 1) % taken + 1
        made += place % gathered == 0 or place == taken
    return batch


def test_a_run_of_so_many_steps_ends_with_the_batch_that_makes_the_last_of_them():
    for taken, gathered, steps in product(range(1, 10), range(1, 12), range(1, 30)):
        found = batches_of_run(trainer(taken, gathered, -1, steps))
        assert found == walked(taken, gathered, steps), (taken, gathered, steps)


@pytest.mark.parametrize("epochs, batches", [(29, 580), (30, 600), (31, 600), (None, 600)])
def test_the_first_limit_counts(epochs, batches):
    assert batches_of_run(trainer(20, 8, epochs, 90)) == batches


def test_without_a_limit_there_is_no_number():
    assert batches_of_run(trainer(20, 8, -1, -1)) is None

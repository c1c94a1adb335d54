"""What all tests share: one thread a process, and no trace in the user's folders."""

import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; test processes inherit it
os.environ.pop("VITFW_RUN_DIR", None)
os.environ.pop("VITFW_DATA", None)

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def unchanged_random_state():
    """A test that seeds torch does not decide what the next one draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def unchanged_root_logger():
    """Hydra gives the root logger a handler that writes to the standard output of its test."""
    before = list(logging.root.handlers)
    yield
    for handler in set(logging.root.handlers) - set(before):
        logging.root.removeHandler(handler)

"""A training that is watched is the training that is not."""

import torch
from tiny_fit import CLASSES, fit
from torch import nn

from vitfw.callbacks.gradients import Gradients
from vitfw.callbacks.learning_rate import LearningRate
from vitfw.callbacks.memory_use import MemoryUse
from vitfw.callbacks.profiler_trace import ProfilerTrace
from vitfw.callbacks.step_timing import StepTiming
from vitfw.callbacks.throughput import Throughput


def test_weights_and_random_state_are_bit_for_bit_the_same(tmp_path):
    watchers = (
        *(LearningRate(), Gradients(), StepTiming(), MemoryUse(), Throughput()),
        ProfilerTrace(first_step=2, steps=1),
    )

    def train(*callbacks):
        torch.manual_seed(5)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, CLASSES))
        records, learner = fit(*callbacks, net=net, folder=tmp_path)
        return records, [p.detach() for p in learner.parameters()], torch.get_rng_state()

    _, plain, plain_state = train()
    records, watched, watched_state = train(*watchers)
    assert all(map(torch.equal, plain, watched)) and torch.equal(plain_state, watched_state)
    for start in ("lr/", "gradient_norm/", "update_ratio/", "step_seconds/", "speed/", "memory/"):
        assert records.tags(start)

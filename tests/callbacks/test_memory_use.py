"""Memory, against what is taken on purpose and what the system says."""

import resource

import torch
from tiny_fit import fit

from vitfw.callbacks.memory_use import GIB, MemoryUse
from vitfw.memory import resident_bytes


def test_what_is_allocated_and_touched_is_resident():
    before = resident_bytes()
    taken = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert resident_bytes() - before > 0.9 * taken.nbytes


def test_a_run_on_a_cpu_logs_the_process_below_its_peak():
    records, _ = fit(MemoryUse(), log_every_n_steps=2)
    curve = records.curve("memory/process_gib")
    assert list(curve) == [2, 4] and records.tags("memory/") == {"memory/process_gib"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    assert 0.05 < curve[4] <= 1.01 * peak

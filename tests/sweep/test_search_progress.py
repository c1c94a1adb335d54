"""A person sees how far a search has come."""

import pytest
from fake_search import BEST, worker

from vitfw.console import log
from vitfw.sweep.trial_jobs import Result


@pytest.fixture
def said(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def test_a_search_tells_what_is_done_and_best_and_what_there_was_before(tmp_path, said):
    def run(each):
        return Result(error="no memory") if each.folder == 1 else Result({BEST: 0.93125 / 7})

    worker(tmp_path, 2, run).run()
    worker(tmp_path, 3, run).run()
    first, second, going_on, third = [line.removesuffix("  0 s") for line in said]
    best = "best 0.133 (trial 0)"
    assert first == f"trial 0  0.133  {best}  1/2 done  0 running  0 pruned"
    assert second == f"trial 1  failed: no memory  {best}  2/2 done  0 running  0 pruned  1 failed"
    assert going_on == f"going on  {best}  2/3 done  0 running  0 pruned  1 failed"
    assert third == f"trial 2  0.133  {best}  3/3 done  0 running  0 pruned  1 failed"

"""The trace of a few steps, read back."""

import json
import logging

import pytest
from tiny_fit import fit

from vitfw.callbacks.profiler_trace import ProfilerTrace

STEP = "Optimizer.step#SGD.step"  # what torch calls a step in its traces


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vitfw"), "propagate", True)
    caplog.set_level(logging.INFO, logger="vitfw")
    return caplog


def steps_in(trace) -> int:
    events = json.loads(trace.read_text())["traceEvents"]
    return sum(event.get("name") == STEP for event in events)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trace_holds_the_steps_that_were_asked_for(tmp_path, said, accumulate):
    callback = ProfilerTrace(first_step=2, steps=2)
    fit(callback, folder=tmp_path, max_epochs=3, accumulate_grad_batches=accumulate)
    trace = tmp_path / "profile" / "trace_step_2.json"
    assert steps_in(trace) == 2
    assert "aten::addmm" in trace.read_text()
    assert "aten::" in (tmp_path / "profile" / "operators_step_2.txt").read_text()
    assert str(trace) in said.text


def test_a_run_that_ends_in_between_keeps_what_was_seen(tmp_path):
    fit(ProfilerTrace(first_step=4, steps=5), folder=tmp_path)
    assert steps_in(tmp_path / "profile" / "trace_step_4.json") == 1


def test_a_run_that_never_gets_there_says_so(tmp_path, said):
    fit(ProfilerTrace(first_step=9), folder=tmp_path)
    assert "callbacks.profiler.first_step=9: the run ended after step 4" in said.text


def test_without_a_first_step_nothing_is_written_or_said(tmp_path, said):
    fit(ProfilerTrace(), folder=tmp_path)
    ours = [record for record in said.records if record.name == "vitfw"]
    assert not (tmp_path / "profile").exists() and not ours


@pytest.mark.parametrize("wrong", [{"first_step": 0}, {"first_step": 3, "steps": 0}])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=r"callbacks\.profiler\.\w+ 0 must be at least 1"):
        ProfilerTrace(**wrong)

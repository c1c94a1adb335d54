"""`vitfw benchmark suite=monitoring`: with and without the callbacks that only watch."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch.profilers import SimpleProfiler

from vitfw.benchmarks.monitoring import TakeTurns, seconds_in_steps
from vitfw.cli import benchmark, main

TINY = [
    *("model=vit_nano", "model.embed_dim=16", "model.depth=1", "model.num_heads=2"),
    *("data=digits", "data.batch_size=16", "trainer.precision=32-true"),
]


@pytest.fixture(autouse=True)
def quiet_process(monkeypatch):
    monkeypatch.setattr(benchmark, "prepare_process", lambda: None)


def command(*words: str) -> int:
    overrides = f"monitoring.overrides=[{','.join(TINY)}]"
    return main.main(["benchmark", "suite=monitoring", "accelerator=cpu", overrides, *words])


def test_it_compares_steps_with_and_without_the_watchers(tmp_path):
    path = tmp_path / "figures.json"
    assert command("monitoring.turns=1", "monitoring.steps=2", f"output={path}") == 0
    figures = json.loads(path.read_text())
    assert (figures["turns"], figures["steps_per_turn"], figures["batch_size"]) == (1, 2, 16)
    steps = [figures[f"{name}_milliseconds_per_step"] for name in ("default", "essential")]
    assert figures["ratio"] == pytest.approx(steps[0] / steps[1], rel=0.01)
    assert len(figures["ratios"]) == 1
    assert 0.0 < figures["share_in_calls"] < 1.0
    assert "DataPreview" in figures["watchers"] and "Throughput" not in figures["watchers"]


def test_what_is_spent_in_the_watchers_calls_is_that_of_steps_alone():
    profiler = SimpleProfiler()
    profiler.recorded_durations |= {
        "[Callback]Watcher.on_train_batch_end": [0.5, 0.25],
        "[Callback]Watcher.on_before_backward": [0.125],
        "[Callback]Watcher.on_validation_end": [8.0],
        "[Callback]Other.on_train_batch_end": [8.0],
    }
    assert seconds_in_steps(profiler, [Watcher()]) == 0.875


class Watcher(L.Callback):
    pass


def test_more_steps_than_an_epoch_has_are_refused(capsys):
    assert command("monitoring.turns=1", "monitoring.steps=5000") == 2
    assert "monitoring.steps=5000: an epoch has" in capsys.readouterr().err


def test_watchers_are_there_in_one_epoch_of_each_turn_and_see_even_and_odd_ones():
    watcher, other = L.Callback(), L.Callback()
    turns = TakeTurns([watcher])
    trainer = SimpleNamespace(callbacks=[turns, watcher, other], current_epoch=0)
    module = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    turns.on_train_start(trainer, module)
    watched = []
    for epoch in range(4):
        trainer.current_epoch = epoch
        turns.on_train_epoch_start(trainer, module)
        assert [turns, other] == [each for each in trainer.callbacks if each is not watcher]
        if watcher in trainer.callbacks:
            watched.append(epoch)
        turns.on_validation_start(trainer, module)
        turns.on_train_epoch_end(trainer, module)
    turns.on_train_end(trainer, module)
    assert watched == [1, 2]
    assert len(turns.alone) == len(turns.watched) == 2
    assert trainer.callbacks == [turns, watcher, other]

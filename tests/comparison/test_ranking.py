"""Which run is best, and which are not beaten in two respects at once."""

import random

import pytest

from vitfw.comparison.ranking import check_metric, pareto_front, ranked
from vitfw.comparison.run import FINISHED, PRUNED, Run
from vitfw.errors import ConfigError


def beats(a, b, lower):
    better = [x < y if low else x > y for x, y, low in zip(a, b, lower, strict=True)]
    return any(better) and all(x == y or win for x, y, win in zip(a, b, better, strict=True))


@pytest.mark.parametrize("lower", [(True, False), (True, True), (False, False), (False, True)])
def test_the_front_is_all_that_no_other_point_beats(lower):
    draw = random.Random(1)
    for _ in range(50):
        points = [(draw.randrange(8), draw.randrange(8)) for _ in range(draw.randrange(1, 25))]
        unbeaten = {i for i, p in enumerate(points) if not any(beats(q, p, lower) for q in points)}
        front = pareto_front(points, lower)
        assert set(front) == unbeaten and len(front) == len(unbeaten)
        best_first = sorted((points[i][0] for i in front), reverse=not lower[0])
        assert [points[i][0] for i in front] == best_first


def test_unfinished_runs_come_after_finished_ones_and_those_without_the_metric_last():
    figures = [
        ("a", FINISHED, 0.5),
        ("b", PRUNED, 0.9),
        ("c", FINISHED, None),
        ("d", FINISHED, 0.7),
    ]
    runs = [Run(name, None, state, metrics={"m": value}) for name, state, value in figures]
    assert [run.name for run in ranked(runs, "m", lower=False)] == ["d", "a", "b", "c"]
    assert [run.name for run in ranked(runs, "m", lower=True)] == ["a", "d", "b", "c"]


def test_a_metric_that_no_run_has_names_the_nearest():
    runs = [
        Run("a", None, FINISHED, metrics={"test/accuracy": 0.5, "val/loss": None, "device": "x"})
    ]
    with pytest.raises(ConfigError, match=r"test/acuracy: no run .* did you mean test/accuracy\?"):
        check_metric("test/acuracy", runs)
    for unmeasured in ("val/loss", "device"):
        with pytest.raises(ConfigError, match="no run has"):
            check_metric(unmeasured, runs)

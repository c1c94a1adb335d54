"""Which run is best, and which are not beaten in two respects at once."""

from collections.abc import Iterable, Sequence

from vitfw.comparison.run import FINISHED, Run
from vitfw.errors import ConfigError, nearest


def known_metrics(runs: Iterable[Run]) -> list[str]:
    return list(
        dict.fromkeys(key for run in runs for key in run.metrics if run.figure(key) is not None)
    )


def check_metric(metric: str, runs: Sequence[Run]) -> None:
    """Raises ConfigError: no run has the metric."""
    known = known_metrics(runs)
    if metric not in known:
        hint = nearest(metric, known) or f"; known: {', '.join(known) or 'none'}"
        raise ConfigError(f"sort={metric}: no run has such a metric{hint}")


def ranked(runs: Iterable[Run], metric: str, lower: bool) -> list[Run]:
    """Best first: finished runs, then those that are not, then those without the metric."""

    def place(run: Run) -> tuple[bool, bool, float]:
        value = run.figure(metric)
        if value is None:
            return True, run.state != FINISHED, 0.0
        return False, run.state != FINISHED, value if lower else -value

    return sorted(runs, key=place)


def pareto_front(points: Sequence[tuple[float, float]], lower: tuple[bool, bool]) -> list[int]:
    """Indices of the points that no other point equals or beats in both and beats in one.

    In the order of the first coordinate, best first.
    """
    signed = [tuple(v if low else -v for v, low in zip(p, lower, strict=True)) for p in points]
    order = sorted(range(len(points)), key=signed.__getitem__)
    front: list[int] = []
    for i in order:
        if not front or signed[i][1] < signed[front[-1]][1] or signed[i] == signed[front[-1]]:
            front.append(i)
    return front

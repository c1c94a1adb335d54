"""How much of a run's time its pictures may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class DrawingTime:
    """Pictures may be drawn as long as all so far took at most `share` of the time since `start`.

    So a run of short epochs has fewer of them; the first is always drawn.

    Raises:
        ValueError: `share`, of the callback called `name`, is not one.
    """

    def __init__(self, share: float, name: str):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"callbacks.{name}.max_share {share} is a share of time: 0 to 1")
        self.share = share
        self._spent = 0.0
        self._began = time.perf_counter()

    def start(self) -> None:
        self._spent, self._began = 0.0, time.perf_counter()

    @property
    def left(self) -> bool:
        return self._spent <= self.share * (time.perf_counter() - self._began)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What happens inside is time spent."""
        began = time.perf_counter()
        yield
        self._spent += time.perf_counter() - began

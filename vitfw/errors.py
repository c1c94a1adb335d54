"""The one error that is the user's to mend, and what telling it takes."""

import difflib
from collections.abc import Iterable, Iterator


class ConfigError(ValueError):
    """What was asked cannot be done; the message says why, and what to type instead.

    Commands print it as one line and exit with 2.
    """


def nearest(word: str, known: Iterable[str], most: int = 3) -> str:
    """`; did you mean a, b?` with the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__

"""Under which name a tracking service knows a run: kept in a file of the run's folder."""

from collections.abc import Callable
from pathlib import Path

from vitfw.atomic import write_text


def remembered_id(file: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The id in `file`, or a new one that is written there; and whether it was there.

    A run that goes on in its folder finds its id; one that begins anew in a new folder does not.
    """
    if file.is_file() and (known := file.read_text(encoding="utf-8").strip()):
        return known, True
    made = make()
    write_text(file, f"{made}\n")
    return made, False

"""What became of every tensor when weights were loaded: nothing happens in silence."""

from dataclasses import dataclass, field
from textwrap import wrap

from vitfw.checkpoint import some


@dataclass
class LoadReport:
    """Each tensor of the net is in `loaded`, `changed` or `remade`; those left over in `ignored`.

    `changed` are those that were loaded after something was done to them, such as resampling;
    `remade` those left as they were initialised; each with what was done or why. `notes` are
    differences between the two models that no tensor shows.
    """

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    remade: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the console, 80 wide: what went well, then each thing to know, indented."""
        total = len(self.loaded) + len(self.changed)
        of = f" of {total + len(self.remade)}" if self.remade else ""
        lines = [f"loaded {total}{of} tensors from {self.source} ({self.format})"]
        for what, reasons in (
            ("changed", self.changed),
            ("made anew", self.remade),
            ("ignored", self.ignored),
        ):
            for reason, names in by_reason(reasons).items():
                lines.append(f"  {what}: {some(names)} ({reason})")
        lines += [f"  note: {note}" for note in self.notes]
        return [part for line in lines for part in wrapped(line)]


def wrapped(line: str) -> list[str]:
    """Words are never cut, so that paths and overrides can be copied."""
    return wrap(line, 80, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False)


def by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return grouped

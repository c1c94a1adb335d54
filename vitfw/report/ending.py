"""How a run ended, at the top of its page: where it was, why, and what to type now."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from vitfw.plots import number

LOSSES = {"train/loss": "training", "val/loss": "validation"}
HEADLINES = {"failed": "Failed", "stopped": "Stopped", "pruned": "Pruned by the search"}


@dataclass(frozen=True)
class Advice:
    """What can be done now, and the command or override to type for it."""

    words: str
    typed: str = ""


@dataclass(frozen=True)
class Ending:
    """`status` is finished, failed, stopped or pruned. `place` says where the run was, `cause` in
    one line why it went no further, `reached` what it had come to; `log` are the last lines of
    train.log.
    """

    status: str = "finished"
    place: str = ""
    cause: str = ""
    reached: str = ""
    advice: Sequence[Advice] = ()
    traceback: str = ""
    log: Sequence[str] = ()


def banner(ending: Ending) -> str:
    """Nothing for a run that finished."""
    if ending.status == "finished":
        return ""
    kind = "failed" if ending.status == "failed" else "stopped"
    headline = HEADLINES.get(ending.status, ending.status)
    place = f": {ending.place}" if ending.place else ""
    parts = [f"<h2>{escape(headline + place)}</h2>"]
    if ending.cause:
        parts.append(f'<p class="cause">{escape(ending.cause)}</p>')
    if ending.reached:
        parts.append(f"<p>{escape(ending.reached)}</p>")
    for advice in ending.advice:
        parts.append(f"<p>{escape(advice.words)}</p>")
        if advice.typed:
            parts.append(f'<pre class="command">{escape(advice.typed)}</pre>')
    parts += [_folded("Traceback", ending.traceback), _folded("Log", "\n".join(ending.log))]
    return f'<div class="banner {kind}" role="alert">{"".join(parts)}</div>'


def _folded(heading: str, text: str) -> str:
    if not text:
        return ""
    pre = f'<pre tabindex="0">{escape(text.rstrip())}</pre>'
    return f"<details><summary>{heading}</summary>{pre}</details>"


def divergence_banner(history: Sequence[Mapping[str, float]]) -> str:
    """Since when a loss is no longer a number; nothing while all of them are."""
    notes = [note for key, name in LOSSES.items() if (note := divergence(history, key, name))]
    if not notes:
        return ""
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    advice = (
        "<p>Usual ways out: a lower <code>optimizer.lr</code>, a longer warm-up, "
        "<code>trainer.gradient_clip_val=1</code>, <code>trainer.precision=32-true</code>.</p>"
    )
    return f'<div class="banner stopped" role="alert"><h2>Loss not finite</h2>{said}{advice}</div>'


def divergence(history: Sequence[Mapping[str, float]], key: str, name: str) -> str:
    """In one sentence, from which step on `key` is NaN or infinite, or where it was for a while."""
    logged = [(row.get("step", math.nan), row[key]) for row in history if row.get(key) is not None]
    odd = [i for i, (_, loss) in enumerate(logged) if not math.isfinite(loss)]
    if not odd:
        return ""
    good = [i for i, (_, loss) in enumerate(logged) if math.isfinite(loss)]
    if good and good[-1] > odd[-1]:
        step, loss = logged[odd[0]]
        often = f"not finite {len(odd)} times, first " if len(odd) > 1 else ""
        return f"The {name} loss was {often}{number(loss)} at step {number(step)}; it recovered."
    if not good:
        return f"The {name} loss is {number(logged[0][1])} since it was first logged."
    (step, loss), (last_step, last_loss) = logged[good[-1] + 1], logged[good[-1]]
    return (
        f"The {name} loss is {number(loss)} from step {number(step)} on; at step "
        f"{number(last_step)} it was {number(last_loss)}."
    )

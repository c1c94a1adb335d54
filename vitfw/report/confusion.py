"""Which classes are taken for which: the matrix, and recall and precision of each class.

K classes.
"""

import math
from collections.abc import Sequence
from html import escape

import torch

from vitfw.plots import number

MAX_HEAT_MAP_CLASSES = 25
MAX_OPEN_CLASSES = 12  # longer per-class tables start closed
FILLED = 0.8  # a cell so strong has text in the colour that stands out from it


def by_class(
    totals: torch.Tensor | None,
    confusion: torch.Tensor | None,
    classes: Sequence[str],
    split: str,
) -> str:
    """Of the `totals` [3, K] and pairs [K, K] of `Predictions`; without any count nothing."""
    if totals is None or not totals.any():
        return ""
    totals = totals.detach().double().cpu()
    k = totals.shape[1]
    names = [str(classes[i]) if i < len(classes) else str(i) for i in range(k)]
    table = _per_class(totals, names)
    if k > MAX_OPEN_CLASSES:
        table = f"<details><summary>All {k} classes</summary><div>{table}</div></details>"
    of = f'<p class="muted">Of {number(totals[0].sum().item())} {split} images.'
    without = " No confusion matrix is kept of so many classes." if confusion is None else ""
    parts = [f"<div><h2>By class</h2>{of}{without}</p>{table}</div>"]
    if confusion is not None and k <= MAX_HEAT_MAP_CLASSES:
        parts.insert(
            0,
            f"<div><h2>Confusion matrix</h2>{of} Rows are the truth, columns the guess. Blue is "
            "right, orange wrong; the stronger, the larger the share of its row.</p>"
            f"{heat_map(confusion.tolist(), names)}</div>",
        )
    layout = "columns" if k <= MAX_OPEN_CLASSES else "stack"
    return f'<section class="{layout}">{"".join(parts)}</section>'


def _per_class(totals: torch.Tensor, names: Sequence[str]) -> str:
    """Recall, precision and number of images per class, the weakest class first."""
    truths, right, guesses = totals
    recall, precision = (right / truths).tolist(), (right / guesses).tolist()  # 0 / 0 → NaN
    order = sorted(range(len(names)), key=lambda i: (math.isnan(recall[i]), recall[i]))
    rows = "".join(
        f'<tr><th scope="row">{escape(names[i])}</th><td>{share(recall[i])}</td>'
        f"<td>{share(precision[i])}</td><td>{number(truths[i].item())}</td></tr>"
        for i in order
    )
    return (
        '<table class="numbers"><thead><tr><th>class, weakest first</th><th>recall</th>'
        f"<th>precision</th><th>images</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def heat_map(counts: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Confusion counts [K][K], rows the truth: a cell is as strong as its share of the row.

    Right answers and wrong ones have a colour each; wrong ones are drawn stronger than their share
    (its square root), or nobody would see them.
    """
    k = len(counts)
    labels = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    longest = max(len(label) for label in labels)
    cell = min(72.0, max(22.0, 340 / k))
    left = 14 + 6.6 * longest
    upright = 7 * longest > cell  # column labels read upwards
    top = left if upright else 24
    parts = []
    for i, label in enumerate(labels):
        centre = (i + 0.5) * cell
        turn = f' transform="rotate(-90 {left + centre:.1f} {top - 7:.1f})"' if upright else ""
        anchor = "start" if upright else "middle"
        shift = 4 if upright else 0
        parts.append(
            f'<text x="{left - 7:.1f}" y="{top + centre + 4:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
            f'<text x="{left + centre + shift:.1f}" y="{top - 7:.1f}" text-anchor="{anchor}"{turn}>'
            f"{escape(label)}</text>"
        )
        total = sum(counts[i])
        for j, count in enumerate(counts[i]):
            part = count / total if total else 0.0
            what = f"{names[i]} → {names[j]}: {number(count)} of {number(total)} ({part:.1%})"
            parts.append(_cell(left + j * cell, top + i * cell, cell, count, part, i == j, what))
    width, height = left + k * cell + 1, top + k * cell + 1
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Confusion matrix">'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Confusion matrix" style="max-width:{width * 1.15:.0f}px;'
        f'min-width:{min(width, left + 25 * k):.0f}px">{"".join(parts)}</svg></div>'
    )


def _cell(
    x: float, y: float, size: float, count: float, share: float, right: bool, what: str
) -> str:
    strength = share if right else math.sqrt(share)
    kind, text = "right" if right else "wrong", number(count)
    box = (
        f'x="{x + 0.75:.2f}" y="{y + 0.75:.2f}" width="{size - 1.5:.2f}" height="{size - 1.5:.2f}"'
    )
    drawn = (
        f'<rect {box} rx="2" class="{kind}" fill-opacity="{0.04 + 0.96 * strength:.3f}">'
        f"<title>{escape(what)}</title></rect>"
    )
    if count and 6.2 * len(text) + 2 <= size:
        colour = f" on-{kind}" if strength > FILLED else ""
        middle = f'x="{x + size / 2:.1f}" y="{y + size / 2 + 3.8:.1f}"'
        drawn += f'<text class="cell-text{colour}" {middle}>{text}</text>'
    return drawn

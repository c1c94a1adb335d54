"""The page of one run, section by section."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vitfw.atomic import write_text
from vitfw.figure import Figure
from vitfw.report.confusion import by_class
from vitfw.report.curves import curves
from vitfw.report.ending import Ending, banner, divergence_banner
from vitfw.report.history import History
from vitfw.report.page import page
from vitfw.report.pictures import pictures_section
from vitfw.report.predictions import Predictions, predictions_section
from vitfw.report.reproduce import config, reproduce
from vitfw.report.summary import tables, tiles


def write_report(
    run_dir: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    history: History,
    config_text: str,
    overrides: Sequence[str],
    command: str,
    facts: str = "",
    environment: Mapping[str, Any] | None = None,
    steps_per_epoch: int = 0,
    ending: Ending | None = None,
    predictions: Predictions | None = None,
    classes: Sequence[str] = (),
    figures: Sequence[Figure] = (),
    unreadable: Mapping[str, str] | None = None,
) -> Path:
    """Write `run_dir/report.html`, all of it or none, and return its path.

    `summary` is metrics.json, `history` the rows of metrics.csv (absent or None: not logged),
    `facts` a line on what was trained on what, `unreadable` the images that were skipped and why.
    Sections without data are left out.
    """
    predictions = predictions or Predictions()
    body = [
        _header(run_dir, title, facts),
        banner(ending or Ending()),
        divergence_banner(history),
        tiles(summary),
        curves(history, steps_per_epoch),
        by_class(predictions.totals, predictions.confusion, classes, predictions.split),
        predictions_section(predictions),
        pictures_section(figures),
        _unreadable(unreadable or {}),
        tables(summary, environment or {}),
        reproduce(command, overrides, summary),
        config(config_text),
    ]
    path = run_dir / "report.html"
    write_text(path, page(title, "\n".join(filter(None, body))))
    return path


def _header(run_dir: Path, title: str, facts: str) -> str:
    written = time.strftime("%Y-%m-%d %H:%M")
    heading = escape(title).replace("/", "/<wbr>")
    return (
        f"<header><h1>{heading}</h1>{f'<p>{escape(facts)}</p>' if facts else ''}"
        f'<div class="muted">{escape(str(run_dir))} · written {written}</div></header>'
    )


def _unreadable(images: Mapping[str, str]) -> str:
    if not images:
        return ""
    rows = "".join(f"<li>{escape(reason)}</li>" for _, reason in sorted(images.items()))
    count = f"{len(images):,} image{'s' if len(images) > 1 else ''}"
    return f"""<section><h2>Skipped</h2><p>{count} could not be read.</p>
<details><summary>Which, and why</summary><ul class="muted">{rows}</ul></details></section>"""

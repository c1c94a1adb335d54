"""`sweep_report.html`: a sweep, or any runs beside each other, on one page without a script."""

import os
import shlex
import time
from collections import Counter
from html import escape
from pathlib import Path
from urllib.parse import quote

from vitfw.atomic import write_text
from vitfw.comparison.cost_plot import cost_plots
from vitfw.comparison.curves_plot import HIGHLIGHTED, curves_plot
from vitfw.comparison.frame import COMPARISON_CSS
from vitfw.comparison.gather import Comparison
from vitfw.comparison.importance import importances
from vitfw.comparison.parallel_plot import MOST_AXES, MOST_LINES, parallel_plot
from vitfw.comparison.run import FINISHED, Run
from vitfw.comparison.words import clipped, counted, exact, measured, shown, sized
from vitfw.report import page
from vitfw.report.summary import duration

OWN_COLUMNS = ("test/accuracy",)


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the page, all of it or none."""
    weights, why_not = importances(comparison)
    body = [
        f"<style>{COMPARISON_CSS}</style>",
        header(comparison),
        problems(comparison),
        tiles(comparison),
        best_command(comparison),
        parameters(comparison, weights, why_not),
        plots(comparison),
        table(comparison, path.parent),
    ]
    write_text(path, page(comparison.title, "\n".join(filter(None, body))))
    return path


def header(comparison: Comparison) -> str:
    where = f"{comparison.sweep} · " if comparison.sweep else ""
    order = "lowest" if comparison.lower else "highest"
    return (
        f'<header><h1>{escape(comparison.title)}</h1><div class="muted">{escape(where)}'
        f"{order} {escape(comparison.metric)} first · written {time.strftime('%Y-%m-%d %H:%M')}"
        "</div></header>"
    )


def problems(comparison: Comparison) -> str:
    if not comparison.problems:
        return ""
    lines = "".join(f"<div>{escape(problem)}</div>" for problem in comparison.problems)
    return f'<div class="banner stopped" role="alert"><b>Left out</b>{lines}</div>'


def tiles(comparison: Comparison) -> str:
    """The best figure, how many runs ended how, and the time of all."""
    best = comparison.runs[0].figure(comparison.metric)
    seconds = [run.figure("fit_seconds") for run in comparison.runs]
    total = sum(s for s in seconds if s is not None)
    states = Counter(run.state for run in comparison.runs)
    done = f"{states.pop(FINISHED, 0):,}"
    facts = [(done, f"of {counted(len(comparison.runs), 'run')} done")]
    if best is not None:
        whose = f"{comparison.metric} of run {comparison.runs[0].name}"
        facts.insert(0, (measured(comparison.metric, best), whose))
    facts += [(f"{count:,}", state) for state, count in states.most_common()]
    facts += [(duration(total), "training time of all")] if total else []
    shown_tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><small>{escape(label)}</small></div>'
        for value, label in facts
    )
    return f'<div class="tiles">{shown_tiles}</div>'


def best_command(comparison: Comparison) -> str:
    """What to type to train the best configuration once more, and test it."""
    best = comparison.runs[0]
    command = command_of(best)
    if command is None or best.figure(comparison.metric) is None:
        return ""
    return f'<section><h2>The best again</h2><pre class="command">{escape(command)}</pre></section>'


def command_of(run: Run) -> str | None:
    """`vitfw train` with what was typed, or what a sweeper drew; None where neither is known."""
    left_out = ("run_dir=", "hydra", "test_after_fit=false")  # a search adds the last
    typed = [word for word in run.typed if not word.startswith(left_out)]
    words = typed or [f"{key}={exact(value)}" for key, value in (run.drawn or {}).items()]
    return shlex.join(["vitfw", "train", *words]) if words else None


def parameters(comparison: Comparison, weights: dict[str, float], why_not: str) -> str:
    """Parallel coordinates, the most important parameter beside the metric, and the importances."""
    keys = sorted(comparison.parameters, key=lambda key: weights.get(key, 0.0))
    plot = parallel_plot(comparison, keys)
    notes = []
    if len(keys) > MOST_AXES - 1:
        notes.append(f"the {MOST_AXES - 1} most important of {len(keys)} parameters")
    if len(comparison.runs) > MOST_LINES:
        notes.append(f"the best {MOST_LINES} of {len(comparison.runs):,} runs")
    if any(run.state != FINISHED for run in comparison.runs):
        notes.append("runs that did not finish are grey, and end before the metric")
    note = f'<p class="muted">{escape("; ".join(notes).capitalize())}.</p>' if notes else ""
    first = f"<section><h2>Parameters</h2>{plot}{note}</section>" if plot else ""
    return first + importance_bars(comparison, weights, why_not)


def importance_bars(comparison: Comparison, weights: dict[str, float], why_not: str) -> str:
    if not weights:
        content = f'<p class="muted">{escape(why_not)}</p>'
    else:
        most = max(weights.values()) or 1.0
        bars = "".join(
            f'<span title="{escape(key)}">{escape(comparison.names[key])}</span>'
            f'<i class="bar" style="width:{100 * weight / most:.1f}%"></i><b>{weight:.0%}</b>'
            for key, weight in weights.items()
        )
        content = (
            f'<div class="bars wide">{bars}</div><p class="muted" style="margin-top:14px">Share of '
            f"the differences in {escape(comparison.metric)} between finished runs that each "
            "parameter explains (fANOVA, Hutter et al. 2014), by Optuna.</p>"
        )
    return f"<section><h2>Importance</h2>{content}</section>"


def plots(comparison: Comparison) -> str:
    drawn = [curves_plot(comparison), *cost_plots(comparison)]
    drawn = [plot for plot in drawn if plot]
    if not drawn:
        return ""
    note = (
        f"The best {HIGHLIGHTED} are coloured; an open dot is where a run ended early. Hovering "
        "names a run."
    )
    return (
        f'<section><h2>Curves and costs</h2><p class="muted">{note}</p>'
        f'<div class="pairs">{"".join(drawn)}</div></section>'
    )


def table(comparison: Comparison, folder: Path) -> str:
    """A row a run, best first, with a link to its own report."""
    metrics = metric_columns(comparison)
    heads = ["<th>#</th><th>run</th>"]
    heads += [f'<th class="figure">{escape(metric)}</th>' for metric in metrics]
    heads += [
        f'<th title="{escape(key)}" class="figure">'
        f"{escape(clipped(comparison.names[key], 24))}</th>"
        for key in comparison.parameters
    ]
    heads.append('<th class="figure">time</th><th class="figure">params</th><th>state</th>')
    rows = []
    for i, run in enumerate(comparison.runs):
        cells = [f"<td>{i + 1}</td><td>{link(run, folder)}</td>"]
        cells += [
            f'<td class="figure">{escape(measured(metric, run.figure(metric)))}</td>'
            for metric in metrics
        ]
        cells += [
            f'<td class="figure" title="{escape(exact(values[i]))}">'
            f"{escape(clipped(shown(values[i]), 28))}</td>"
            for values in comparison.parameters.values()
        ]
        seconds = measured("fit_seconds", run.figure("fit_seconds"))
        cells.append(
            f'<td class="figure">{seconds}</td><td class="figure">'
            f'{sized(run.figure("params"))}</td><td class="state state-{run.state}">'
            f"{run.state}</td>"
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<section><h2>Runs</h2><div class="scroll"><table class="runs"><thead><tr>'
        f"{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def metric_columns(comparison: Comparison) -> list[str]:
    """The metric, the other objectives, and the test accuracy where it was measured."""
    names = [comparison.metric, *(o.name for o in comparison.objectives), *OWN_COLUMNS]
    there = [n for n in names if any(run.figure(n) is not None for run in comparison.runs)]
    return list(dict.fromkeys([comparison.metric, *there]))


def link(run: Run, folder: Path) -> str:
    name = escape(run.name)
    if run.folder is None or not (run.folder / "report.html").is_file():
        return name
    target = os.path.relpath(run.folder / "report.html", folder)
    return f'<a href="{escape(quote(target))}">{name}</a>'

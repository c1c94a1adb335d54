"""The picture of a learning-rate range test: loss over the logarithm of the rate."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from vitfw.callbacks.lr_range_test import Findings
from vitfw.plots import ticks
from vitfw.preview import INK, LINE, MUTED, PAPER, TEXT, TITLE, TRAIN, VAL, font, width_of

WIDTH, HEIGHT = 1100, 700
LEFT, RIGHT, TOP, BOTTOM = 110, 50, 120, 90
HEADROOM = 1.5  # losses beyond so many times those of the first half are cut off


def range_test_plot(findings: Findings, title: str) -> Image.Image:
    """Every loss as a dot, their running mean as a line, and a mark at each rate that was found."""
    page = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(page)
    early = findings.smoothed[: len(findings.rates) // 2 + 1]
    ceiling = HEADROOM * max(early)
    losses = [min(loss, ceiling) for loss in findings.losses]
    means = [min(mean, ceiling) for mean in findings.smoothed]
    levels = ticks(min(losses), max(losses))
    first, last = math.log10(findings.rates[0]), math.log10(findings.rates[-1])

    def px(rate: float) -> float:
        return LEFT + (math.log10(rate) - first) / ((last - first) or 1.0) * (WIDTH - LEFT - RIGHT)

    def py(loss: float) -> float:
        share = (loss - levels[0]) / (levels[-1] - levels[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    draw.text((LEFT, 30), title, INK, font(TITLE))
    for level in levels:
        draw.line([(LEFT, py(level)), (WIDTH - RIGHT, py(level))], LINE)
        draw.text((LEFT - 12, py(level)), f"{level:.4g}", MUTED, font(TEXT), anchor="rm")
    for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1):
        x = px(10.0**power)
        draw.line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 6)], MUTED)
        draw.text((x, HEIGHT - BOTTOM + 12), f"1e{power}", MUTED, font(TEXT), anchor="ma")
    middle = (LEFT + WIDTH - RIGHT) / 2
    draw.text((middle, HEIGHT - 40), "learning rate", MUTED, font(TEXT), anchor="ma")
    draw.text((LEFT - 12, TOP - 34), "loss", MUTED, font(TEXT), anchor="ra")
    for rate, loss in zip(findings.rates, losses, strict=True):
        x, y = px(rate), py(loss)
        draw.ellipse([(x - 2, y - 2), (x + 2, y + 2)], fill=VAL)
    line = [(px(rate), py(mean)) for rate, mean in zip(findings.rates, means, strict=True)]
    draw.line(line, TRAIN, width=3, joint="curve")
    for row, (rate, name) in enumerate(marks(findings)):
        mark(draw, px(rate), row, f"{name} {rate:.2g}")
    return page


def marks(findings: Findings) -> Sequence[tuple[float, str]]:
    """What is marked, as far as the picture reaches."""
    diverged = findings.diverged_at
    found = [(findings.steepest, "steepest descent"), (diverged, "divergence")]
    if diverged is not None:
        found.append((diverged / 10, "a tenth of it"))
    low, high = findings.rates[0], findings.rates[-1]
    return [(min(rate, high), name) for rate, name in found if rate is not None and rate >= low]


def mark(draw: ImageDraw.ImageDraw, x: float, row: int, text: str) -> None:
    """An upright line with its name, on the side where there is room."""
    draw.line([(x, TOP), (x, HEIGHT - BOTTOM)], MUTED, width=2)
    left = x + 8 + width_of(text, TEXT) > WIDTH - RIGHT
    at = (x - 8 if left else x + 8, TOP - 40 + 20 * row)
    draw.text(at, text, INK, font(TEXT), anchor="ra" if left else "la")

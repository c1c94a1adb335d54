"""The pictures a model got most wrong, and those it was rightly most sure of."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from PIL import Image

from vitfw.report.confusion import share
from vitfw.report.pictures import data_uri

PIXELATED_BELOW = 96  # images smaller than this keep hard pixel edges when enlarged
MAX_SIDE = 160  # larger ones are shrunk: the page travels by mail


@dataclass(frozen=True)
class Prediction:
    """An image [C, H, W] uint8, its class, what it was taken for and how surely, 0 to 1."""

    image: torch.Tensor
    truth: str
    guess: str
    confidence: float


@dataclass(frozen=True)
class Predictions:
    """Of the images of `split`, "test" or "validation": the wrong guesses of highest confidence,
    and the right ones; `totals` [3, K], of each of K classes its images, how many of them were
    recognised, and how often it was guessed; `confusion` [K, K], counts with the truth in rows,
    unless there are too many classes.
    """

    split: str = "test"
    totals: torch.Tensor | None = None
    confusion: torch.Tensor | None = None
    worst: Sequence[Prediction] = ()
    best: Sequence[Prediction] = ()


def predictions_section(predictions: Predictions) -> str:
    parts = []
    if predictions.worst:
        figures = "".join(map(_wrong, predictions.worst))
        parts.append(
            "<h3>Worst: wrong, and most sure of it</h3>"
            '<p class="muted">Truth → <b>guess</b>, and the confidence in the guess.</p>'
            f'<div class="guesses">{figures}</div>'
        )
    if predictions.best:
        figures = "".join(map(_right, predictions.best))
        parts.append(
            f'<h3>Best: right, and most sure of it</h3><div class="guesses">{figures}</div>'
        )
    if not parts:
        return ""
    return f"<section><h2>Predictions of {predictions.split} images</h2>{''.join(parts)}</section>"


def _wrong(one: Prediction) -> str:
    words = f"{escape(one.truth)}<br>→ <b>{escape(one.guess)}</b>"
    return _figure(one, words, f"{one.truth}, taken for {one.guess}")


def _right(one: Prediction) -> str:
    return _figure(one, escape(one.truth), f"{one.truth}, recognised")


def _figure(one: Prediction, words: str, alt: str) -> str:
    picture = as_picture(one.image)
    kind = ' class="pixelated"' if max(picture.size) < PIXELATED_BELOW else ""
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return (
        f'<figure><img{kind} src="{data_uri(picture)}" alt="{escape(alt)}"><figcaption>{words} '
        f"<small>{share(one.confidence)}</small></figcaption></figure>"
    )


def as_picture(image: torch.Tensor) -> Image.Image:
    """Grey, or the first three channels."""
    pixels = image.detach().cpu()
    rows = pixels[:3].permute(1, 2, 0) if len(pixels) >= 3 else pixels[0]
    return Image.fromarray(rows.contiguous().numpy())

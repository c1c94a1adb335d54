"""The pictures that callbacks drew, inside the page, and small enough to be mailed with it."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from vitfw.figure import Figure

BUDGET = 1_300_000  # bytes of all pictures in the page
MAX_WIDTH = 1400
LEGIBLE_WIDTH = 640  # on a phone a picture is scrolled sideways rather than made narrower
LOSSLESS_UP_TO = 24_000  # bytes; a larger picture may become a JPEG
SMALLEST = 64  # a side beyond which a picture is not shrunk


def pictures_section(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    shown = "".join(_figure(figure, BUDGET // len(figures)) for figure in figures)
    return f"<section><h2>Pictures</h2>{shown}</section>"


def _figure(figure: Figure, budget: int) -> str:
    source, width = fitted(figure.image, budget)
    title = escape(figure.title)
    style = f"width:{width}px"
    if width > LEGIBLE_WIDTH:
        style = f"width:100%;max-width:{width}px;min-width:{LEGIBLE_WIDTH}px"
    return (
        f'<figure class="picture"><h3>{title}</h3>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f'<img src="{source}" alt="{escape(figure.caption or figure.title)}" style="{style}">'
        f'</div><figcaption class="muted">{escape(figure.caption)}</figcaption></figure>'
    )


def fitted(picture: Image.Image, budget: int) -> tuple[str, int]:
    """A data URI of at most `budget` bytes, and its width: shrunk until it is that small."""
    shown = picture.copy()
    shown.thumbnail((MAX_WIDTH, 4 * MAX_WIDTH), Image.Resampling.LANCZOS)
    source = data_uri(shown)
    while len(source) > budget and min(shown.size) > SMALLEST:
        scale = min(0.9, (budget / len(source)) ** 0.5)
        smaller = (max(1, int(scale * shown.width)), max(1, int(scale * shown.height)))
        shown = picture.resize(smaller, Image.Resampling.LANCZOS)
        source = data_uri(shown)
    return source, shown.width


def data_uri(picture: Image.Image) -> str:
    """As PNG; a larger one as JPEG where that is smaller."""
    kind, content = "png", _encoded(picture, "PNG")
    if len(content) > LOSSLESS_UP_TO:
        photograph = _encoded(picture.convert("RGB"), "JPEG", quality=86)
        if len(photograph) < len(content):
            kind, content = "jpeg", photograph
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()

"""A picture that belongs into a run's report."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Figure:
    """A picture with its heading, and one sentence on how to read it.

    A callback that has some returns them from `report_figures()`, a list, at any time: also when
    a run broke.
    """

    title: str
    image: Image.Image
    caption: str = ""

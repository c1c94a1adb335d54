"""Small images first: the size of training images as a function of the progress of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vitfw.errors import ConfigError


@dataclass(frozen=True)
class Progressive:
    """`sizes[i]` pixels on the shorter side until the share `until[i]` of the run, then full size.

    Fewer pixels are fewer tokens, so the first part of the run is faster. Evaluation is always on
    images of full size.

    Raises:
        ConfigError: not one `until` for every size, or shares that do not rise from 0 to 1.

    Source: Tan and Le 2021, "EfficientNetV2", §4; Howard 2018, in the fastest entries to DAWNBench.
    """

    sizes: Sequence[int] = ()
    until: Sequence[float] = ()

    def __post_init__(self):
        if len(self.sizes) != len(self.until):
            raise ConfigError(
                f"augment.progressive has {len(self.sizes)} sizes and {len(self.until)} ends in "
                "until; give one of each, such as sizes=[16,20] until=[0.3,0.6]"
            )
        if any(size < 1 for size in self.sizes):
            raise ConfigError(
                f"augment.progressive.sizes={list(self.sizes)} are pixels, such as 16"
            )
        if any(before >= after for before, after in pairwise([0.0, *self.until])) or (
            self.until and self.until[-1] > 1.0
        ):
            raise ConfigError(
                f"augment.progressive.until={list(self.until)} are shares of the run that rise, "
                "such as [0.3, 0.6]"
            )

    def size_at(self, progress: float, full: tuple[int, int]) -> tuple[int, int]:
        """Height and width at a share of the run; `full` is that of the model."""
        for size, until in zip(self.sizes, self.until, strict=True):
            if progress < until:
                return scaled_to(size, full)
        return full


def scaled_to(size: int, full: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of `full` whose shorter side becomes `size`."""
    height, width = full
    return size * height // min(full), size * width // min(full)

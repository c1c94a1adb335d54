"""Mixup and CutMix: every image of a batch blended with, or patched by, another one.

B batch, C channels, H height, W width, K classes. The partner of image i is image B − 1 − i, so
the one in the middle of an odd batch mixes with itself and stays as it is.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitfw.errors import ConfigError


class Mix(NamedTuple):
    """What is done to each image of a batch (n = B), or to all of them alike (n = 1).

    `blend` [n]: share of the image itself in the weighted mean of the two; 1 leaves it alone.
    `boxes` [n, 4]: top, bottom, left, right of what the partner covers; empty where top = bottom.
    `own` [n]: share of the image's own label, exact to the pixel.
    """

    blend: np.ndarray
    boxes: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix of training batches, with soft targets.

    `mixup` and `cutmix` are the α of Beta(α, α), which gives the share λ of the image itself; 0
    is off. A batch is mixed with `probability`; where both are on, `switch_probability` is that
    of CutMix. With `mode="element"` every image has its own λ, its own box and its own choice of
    the two. `off_share` is the last share of the training that sees plain images.

    Raises:
        ConfigError: a value outside its range; says which are in it.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019,
    "CutMix". The reversed batch as the partner and λ corrected to the clipped box are timm's.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: Literal["batch", "element"] = "batch"
    off_share: float = 0.0

    def __post_init__(self):
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(
                    f"augment.mixing.{name}={value} is the α of a Beta distribution: "
                    "more than 0, such as 0.8, or 0 to switch it off"
                )
        for name in ("probability", "switch_probability", "off_share"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                kind = "share of the training" if name == "off_share" else "probability"
                raise ConfigError(f"augment.mixing.{name}={value} is a {kind}: 0 to 1")
        if self.mode not in ("batch", "element"):
            raise ConfigError(f"augment.mixing.mode={self.mode} is unknown; use batch or element")

    @property
    def active(self) -> bool:
        """Whether a run with these options ever mixes."""
        return max(self.mixup, self.cutmix) > 0 and self.probability > 0 and self.off_share < 1

    def __call__(
        self, images: Tensor, labels: Tensor, num_classes: int, key: int, progress: float
    ) -> tuple[Tensor, Tensor]:
        """images [B, C, H, W] float, labels [B] int64 → images and targets, on the same device.

        Targets are [B, K] float32 in every batch as long as mixing is on, those included that
        `probability` leaves plain (one-hot), so that a loss sees one shape. They are the labels
        [B] if mixing is never on (`active`) and in the last `off_share`: one change in a run.

        What is done is a function of `key`, a hash of whatever makes a batch a batch: seed,
        process and step. It is drawn on the CPU and the device is never waited for. `progress`
        is the share of the training that is done.
        """
        if not self.active or progress >= 1.0 - self.off_share:
            return images, labels
        count = len(images) if self.mode == "element" else 1
        height, width = images.shape[-2:]
        return apply(self.draw(count, height, width, key), images, labels, num_classes)

    def draw(self, count: int, height: int, width: int, key: int) -> Mix:
        """What is done to `count` images of height × width, a function of `key`."""
        random = np.random.default_rng(key % 2**64)
        mixed = random.random(count) < self.probability
        switched = random.random(count) < self.switch_probability
        cut = switched & (self.cutmix > 0) if self.mixup else np.ones(count, dtype=bool)
        alpha = np.where(cut, self.cutmix, self.mixup)
        kept = np.where(mixed, random.beta(alpha, alpha), 1.0)
        centre_y, centre_x = random.integers(0, height, count), random.integers(0, width, count)
        boxes = cutmix_boxes(np.where(cut, kept, 1.0), centre_y, centre_x, height, width)
        top, bottom, left, right = boxes.T
        covered = (bottom - top) * (right - left) / (height * width)
        return Mix(np.where(cut, 1.0, kept), boxes, np.where(cut, 1.0 - covered, kept))


def cutmix_boxes(
    kept: np.ndarray, centre_y: np.ndarray, centre_x: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Boxes of 1 − `kept` of the area, clipped by the image: each [n] → [n, 4], see `Mix`."""
    side = np.sqrt(1.0 - kept)
    cut_y, cut_x = (height * side).astype(np.int64), (width * side).astype(np.int64)
    top, bottom = centre_y - cut_y // 2, centre_y + (cut_y + 1) // 2
    left, right = centre_x - cut_x // 2, centre_x + (cut_x + 1) // 2
    return np.stack(
        [top.clip(min=0), bottom.clip(max=height), left.clip(min=0), right.clip(max=width)], axis=1
    )


def apply(mix: Mix, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images mixed as told, [B, C, H, W], and their soft targets [B, K] float32.

    Nothing is changed in place; a batch that is left alone is given back itself.
    """
    hot = torch.zeros(len(labels), num_classes, device=labels.device)
    hot.scatter_(1, labels[:, None], 1.0)
    if len(mix.own) == 1:
        own = float(mix.own[0])
        return _alike(mix, images), own * hot + (1.0 - own) * hot.flip(0)
    numbers = np.concatenate([mix.blend[:, None], mix.own[:, None], mix.boxes], axis=1)
    drawn = torch.from_numpy(numbers.T.astype(np.float32))  # [6, B]
    if images.device.type == "cuda":
        drawn = drawn.pin_memory()
    drawn = drawn.to(images.device, non_blocking=True)
    own = drawn[1][:, None]
    return _each(drawn, images), own * hot + (1.0 - own) * hot.flip(0)


def _alike(mix: Mix, images: Tensor) -> Tensor:
    """One λ, or one box, for the whole batch."""
    blend = float(mix.blend[0])
    top, bottom, left, right = mix.boxes[0].tolist()
    if blend < 1.0:
        return torch.lerp(images.flip(0), images, blend)
    if top == bottom or left == right:
        return images
    images = images.clone()
    box = images[:, :, top:bottom, left:right]
    box.copy_(box.flip(0))
    return images


def _each(drawn: Tensor, images: Tensor) -> Tensor:
    """A λ, or a box, for each image: drawn [6, B] float32, as put together by `apply`."""
    blend, _, top, bottom, left, right = drawn[:, :, None].unbind()  # each [B, 1]
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    inside_y, inside_x = (y >= top) & (y < bottom), (x >= left) & (x < right)  # [B, H], [B, W]
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]  # [B, 1, H, W]
    partner = images.flip(0)
    blended = torch.lerp(partner, images, blend[:, :, None, None].to(images.dtype))
    return torch.where(inside, partner, blended)

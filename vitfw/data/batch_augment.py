"""Augmentation of whole batches on the device, every sample by its own random numbers.

B batch, C channels, H height, W width, S output side. The numbers are those of
`counter_rng`, so what happens to a sample depends on its key alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitfw.data.counter_rng import randint, uniform

# Which random number of a sample decides what; a number is used for one thing only.
SHIFT_Y, SHIFT_X, FLIP, CROP_AREA, CROP_RATIO, CROP_Y, CROP_X = range(7)
ERASE, ERASE_AREA, ERASE_RATIO, ERASE_Y, ERASE_X = range(7, 12)


@dataclass(frozen=True)
class BatchAugment:
    """Random crops, mirror images and erasing, for training batches of floats in [0, 1].

    `shift`: crop from the image padded with zeros by so many pixels on each side.
    `crop_scale`: random resized crop, the range of the area as a share of the image's.
    `hflip`: probability of a mirror image. `erase`: probability that one rectangle is replaced
    by the mean, of 2 to 33 % of the area (Zhong et al. 2020).

    Raises:
        ValueError: a share or probability outside [0, 1], a negative shift, a range upside down.
    """

    shift: int = 0
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    erase: float = 0.0

    def __post_init__(self):
        if self.shift < 0:
            raise ValueError(f"augment.shift {self.shift} is negative; 0 switches it off")
        for name in ("hflip", "erase"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} {getattr(self, name)} is a probability: 0 to 1")
        if self.crop_scale is not None:
            low, high = self.crop_scale
            if not 0.0 < low <= high <= 1.0:
                raise ValueError(
                    f"augment.crop_scale [{low}, {high}] is a range of shares of the image: "
                    "0 < low ≤ high ≤ 1, such as [0.35, 1]"
                )
        low, high = self.crop_ratio
        if not 0.0 < low <= high:
            raise ValueError(
                f"augment.crop_ratio [{low}, {high}] is a range of width / height: "
                "0 < low ≤ high, such as [0.75, 1.3333]"
            )

    def __call__(self, images: Tensor, keys: Tensor, mean: Tensor) -> Tensor:
        """[B, C, H, W] float in [0, 1], keys [B], mean [C] → the same shape, augmented."""
        if self.shift:
            images = shift_crop(images, keys, self.shift)
        if self.crop_scale:
            images = resized_crop(images, keys, tuple(self.crop_scale), tuple(self.crop_ratio))
        if self.hflip:
            flipped = uniform(keys, FLIP) < self.hflip
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        if self.erase:
            images = erase_rectangle(images, keys, self.erase, mean)
        return images


def shift_crop(images: Tensor, keys: Tensor, pad: int) -> Tensor:
    """Pad with zeros by `pad` pixels and crop back at a random place: [B, C, H, W] kept."""
    height, width = images.shape[-2:]
    rows = randint(keys, SHIFT_Y, 2 * pad + 1)[:, None] + torch.arange(height, device=keys.device)
    columns = randint(keys, SHIFT_X, 2 * pad + 1)[:, None] + torch.arange(width, device=keys.device)
    padded = F.pad(images, (pad, pad, pad, pad)).movedim(1, -1)  # [B, H + 2p, W + 2p, C]
    batch = torch.arange(len(images), device=keys.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def crop_boxes(
    keys: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random boxes as shares of the image: top, left, height, width, each [B] in [0, 1].

    Area is uniform in `scale`, the aspect ratio log-uniform in `ratio`; a side that would not
    fit is cut to 1.
    """
    area = scale[0] + (scale[1] - scale[0]) * uniform(keys, CROP_AREA)
    low, high = torch.tensor(ratio[0]).log().item(), torch.tensor(ratio[1]).log().item()
    aspect = (low + (high - low) * uniform(keys, CROP_RATIO)).exp()
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    top = uniform(keys, CROP_Y) * (1.0 - height)
    left = uniform(keys, CROP_X) * (1.0 - width)
    return top, left, height, width


def resized_crop(
    images: Tensor, keys: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Random crop of each image, stretched back to its size, bilinear: [B, C, H, W] kept."""
    top, left, height, width = crop_boxes(keys, scale, ratio)
    zero = torch.zeros_like(top)
    affine = torch.stack(  # [B, 2, 3], in coordinates from −1 to 1
        [
            torch.stack([width, zero, 2 * left + width - 1], dim=1),
            torch.stack([zero, height, 2 * top + height - 1], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)  # [B, H, W, 2]
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erase_rectangle(images: Tensor, keys: Tensor, probability: float, mean: Tensor) -> Tensor:
    """Put the mean in place of one random rectangle of a share of the images."""
    height, width = images.shape[-2:]
    area = 0.02 + (1 / 3 - 0.02) * uniform(keys, ERASE_AREA)
    aspect = ((uniform(keys, ERASE_RATIO) * 2 - 1) * torch.tensor(3.3).log().item()).exp()
    box_height = (area / aspect).sqrt().clamp(max=1.0) * height
    box_width = (area * aspect).sqrt().clamp(max=1.0) * width
    top = uniform(keys, ERASE_Y) * (height - box_height)
    left = uniform(keys, ERASE_X) * (width - box_width)
    y = torch.arange(height, device=keys.device) + 0.5
    x = torch.arange(width, device=keys.device) + 0.5
    inside_y = (y >= top[:, None]) & (y < (top + box_height)[:, None])  # [B, H]
    inside_x = (x >= left[:, None]) & (x < (left + box_width)[:, None])  # [B, W]
    chosen = uniform(keys, ERASE) < probability
    erased = chosen[:, None, None] & inside_y[:, :, None] & inside_x[:, None, :]  # [B, H, W]
    return torch.where(erased[:, None], mean[None, :, None, None], images)

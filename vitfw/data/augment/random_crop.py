"""The random crop of one image, for worker processes: `batch_crop.crop_pixels` without tensors."""

import math

from vitfw.data.augment.batch_crop import CROP_SIDES, CROP_X, CROP_Y, TRIES, Range
from vitfw.data.counter_rng import uniform_of


def random_box(
    key: int, scale: Range, ratio: Range, height: int, width: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box in an image of height × width pixels."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for draw in range(CROP_SIDES, CROP_SIDES + TRIES):
        area = (scale[0] + (scale[1] - scale[0]) * uniform_of(key, draw)) * height * width
        aspect = math.exp(low + (high - low) * uniform_of(key, draw + TRIES))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(uniform_of(key, CROP_Y) * (height - box_height + 1))
            left = int(uniform_of(key, CROP_X) * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height = max(min(height, round(width / ratio[0])), 1)
    box_width = max(min(width, round(height * ratio[1])), 1)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width

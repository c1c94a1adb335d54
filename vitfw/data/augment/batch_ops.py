"""Colours and sharpness of whole batches, every image by its own strength.

B batch, C channels (1 or 3), H height, W width. Images are uint8 [B, C, H, W] and strengths [B];
the results are those of `torchvision.transforms.v2.functional` on each image alone, to the level
or, where floats are rounded in another order, to one level on few pixels. No image depends on
which others are in its batch. Shears, translations and rotations: `batch_geometry`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitfw.data.counter_rng import uniform
from vitfw.errors import ConfigError


def check_channels(images: Tensor) -> None:
    """Colours are defined for grey and for red, green and blue."""
    if images.shape[1] not in (1, 3):
        raise ConfigError(
            f"changes of colour need images of 1 or 3 channels, these have {images.shape[1]}; "
            "switch them off: augment=none"
        )


def _per_image(values: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1)


def _levels(values: Tensor) -> Tensor:
    """Floats to uint8, cut to 0 … 255, the part after the point dropped. Writes over `values`."""
    return values.clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """Brightness as the eye weighs it (ITU-R BT.601): [B, 3, H, W] → [B, 1, H, W] uint8."""
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).to(torch.uint8)


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """share · images + (1 − share) · other, which may be outside the two."""
    share = _per_image(share)
    return _levels(images.float().mul_(share).addcmul_(other.float(), 1.0 - share))


def grayscale(images: Tensor) -> Tensor:
    """Every channel the luma."""
    return images if images.shape[1] == 1 else _luma(images).repeat(1, 3, 1, 1)


def invert(images: Tensor) -> Tensor:
    """Level v becomes 255 − v."""
    return images.bitwise_not()


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 black, 1 the image, 2 every level twice."""
    return _levels(images.float().mul_(_per_image(factor)))


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 grey, 1 the image, 2 twice as far from grey."""
    return images if images.shape[1] == 1 else _blend(images, _luma(images), factor)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 the mean luma everywhere, 1 the image, 2 twice as far from that mean."""
    luma = images if images.shape[1] == 1 else _luma(images)
    total = luma.sum(dim=(1, 2, 3), dtype=torch.int64)  # exact, so the order does not matter
    return _blend(images, _per_image(total.float() / luma[0].numel()), factor)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0 smoothed by a 3 × 3 filter with 5 in the middle of 1s, 1 the image, 2 sharpened.

    The outermost pixels stay; so does an image with a side of 1 or 2.
    """
    height, width = images.shape[-2:]
    if height <= 2 or width <= 2:
        return images
    wide = images.to(torch.int16)
    inside = wide[..., 1:-1, 1:-1]
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = (square + 4 * inside).div(13).round_()
    result = images.clone()
    share = 1.0 - _per_image(factor)
    result[..., 1:-1, 1:-1] = _levels(inside.float().addcmul_(smooth.sub_(inside), share))
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits of every level, 0 to 8."""
    mask = (255 << (8 - bits.long())) & 255
    return images & _per_image(mask.to(torch.uint8))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from the threshold on, 0 to 255."""
    lowest = _per_image(threshold.ceil().to(torch.uint8))
    return images ^ (images >= lowest).to(torch.uint8).mul_(255)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0 … 255; a channel of one level stays."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = low == high
    low = low.float().masked_fill_(flat, 0.0)
    scale = (high - low).mul_(1 / 255).masked_fill_(flat, 1.0)
    return _levels((images - low).div_(scale))


def equalize(images: Tensor) -> Tensor:
    """Spread the levels of each channel evenly, by its histogram, as PIL does.

    A channel stays if fewer than 255 of its pixels lie below its highest level.
    """
    channels = images.flatten(2).flatten(0, 1)  # [B · C, H · W]
    count, pixels = channels.shape
    offset = torch.arange(count, dtype=torch.int32, device=images.device)[:, None] * 256
    index = (channels.to(torch.int32) + offset).flatten()
    histogram = index.bincount(minlength=count * 256).view(count, 256)
    up_to = histogram.cumsum(dim=1)
    in_highest = histogram.gather(1, channels.amax(dim=1, keepdim=True).long())
    step = (pixels - in_highest) // 255  # [B · C, 1]
    below = F.pad(up_to[:, :-1], (1, 0))
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    return table.to(torch.uint8).flatten().index_select(0, index).view_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, reach: int = 6) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, > 0, cut off at `reach` pixels to each side.

    Beyond the edges the image is mirrored, which goes as far as its side − 1: the reach along
    a shorter side is that.
    """
    blurred = images.float()
    for dim in (2, 3):
        side = images.shape[dim]
        taps = min(reach, side - 1)
        steps = torch.arange(-taps, taps + 1, device=images.device)
        weights = (steps / sigma[:, None]).square_().mul_(-0.5).softmax(dim=1)  # [B, 2 taps + 1]
        mirrored = F.pad(
            blurred, (0, 0, taps, taps) if dim == 2 else (taps, taps, 0, 0), mode="reflect"
        )
        blurred = torch.zeros_like(blurred)
        for tap in range(2 * taps + 1):
            blurred.addcmul_(mirrored.narrow(dim, tap, side), _per_image(weights[:, tap]))
    return _levels(blurred.round_())


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, −0.5 to 0.5."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().unbind(dim=1)  # each [B, H, W]
    low, high = images.amin(dim=1).float(), images.amax(dim=1).float()
    chroma = high - low
    divisor = chroma.clamp(min=1.0)  # of grey pixels, whose hue does not matter
    sixths = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    sixths = sixths + 6.0 * turn[:, None, None]
    turned = torch.empty_like(images)
    for channel, start in enumerate((5.0, 3.0, 1.0)):
        place = sixths + start
        place = place.sub_((place / 6.0).floor_().mul_(6.0))  # remainder_, but vectorised
        drop = torch.minimum(place, 4.0 - place).clamp_(0.0, 1.0).mul_(chroma)
        turned[:, channel] = _levels((high - drop).mul_(255.999 / 255))  # as torchvision rounds
    return turned


def colour_jitter(
    images: Tensor,
    keys: Tensor,
    first_draw: int,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, in this order for every image.

    Strengths are those of torchvision's `ColorJitter`: a factor is uniform in
    [max(0, 1 − s), 1 + s], the hue turns by up to ±hue (0 to 0.5), and 0 leaves out a change.
    torchvision shuffles the order. Uses the four random numbers from `first_draw` on.

    Raises:
        ConfigError: the images have neither 1 nor 3 channels.
    """
    check_channels(images)
    factors = (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
    )
    for draw, (adjust, strength) in enumerate(factors, first_draw):
        if strength:
            low, high = max(0.0, 1.0 - strength), 1.0 + strength
            images = adjust(images, low + (high - low) * uniform(keys, draw))
    if hue:
        images = adjust_hue(images, hue * (2.0 * uniform(keys, first_draw + 3) - 1.0))
    return images

"""Shears, translations and rotations of whole batches, every image by its own strength.

B batch, C channels, H height, W width. Images are uint8 [B, C, H, W] and strengths [B]; the
results are those of `torchvision.transforms.v2.functional` on each image alone: nearest pixel,
black outside. Only where a source position lies half-way between two pixels may float32 rounding
pick the other one: all of them in a quarter turn of an image with one odd and one even side.
"""

import torch
from torch import Tensor


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Each pixel of the result is the nearest one at a linear map of its position, or 0.

    `matrices` [B, 2, 3] lead from a position (x, y, 1) of the result to one of the image, both in
    pixels from the image's centre. [B, C, H, W] uint8 kept.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    along_x, along_y, offset = matrices.float()[..., None, None].unbind(dim=2)  # each [B, 2, 1, 1]
    source = (along_x * x + along_y * y) + offset  # [B, 2, H, W]
    column = (source[:, 0] + (width - 1) / 2).round_().long()
    row = (source[:, 1] + (height - 1) / 2).round_().long()
    nearest_column, nearest_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    inside = (column == nearest_column).logical_and_(row == nearest_row)  # [B, H, W]
    index = (nearest_row * width + nearest_column).flatten(1)[:, None]  # [B, 1, H · W]
    moved = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
    return moved.mul_(inside[:, None].to(torch.uint8))


def _matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """2 × 3 numbers, each a float or a tensor [B] → [B, 2, 3]."""
    entries = [
        entry if isinstance(entry, Tensor) else torch.full_like(like, entry)
        for row in rows
        for entry in row
    ]
    return torch.stack(entries, dim=1).view(-1, 2, 3)


def shear_x(images: Tensor, shear: Tensor) -> Tensor:
    """Row y moves left by shear · y, the top edge staying where it is."""
    half = images.shape[-2] / 2
    return affine(images, _matrices([[1.0, shear, shear * half], [0.0, 1.0, 0.0]], shear))


def shear_y(images: Tensor, shear: Tensor) -> Tensor:
    """Column x moves up by shear · x, the left edge staying where it is."""
    half = images.shape[-1] / 2
    return affine(images, _matrices([[1.0, 0.0, 0.0], [shear, 1.0, shear * half]], shear))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Move right by so many pixels, the part after the point dropped."""
    return affine(images, _matrices([[1.0, 0.0, -pixels.trunc()], [0.0, 1.0, 0.0]], pixels))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Move down by so many pixels, the part after the point dropped."""
    return affine(images, _matrices([[1.0, 0.0, 0.0], [0.0, 1.0, -pixels.trunc()]], pixels))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn about the centre, anticlockwise; the corners that leave the image are lost."""
    turn = degrees.deg2rad()
    cos, sin = turn.cos(), turn.sin()
    return affine(images, _matrices([[cos, -sin, 0.0], [sin, cos, 0.0]], turn))

"""Holding a data set as one uint8 tensor, where it fits."""

import os

import torch
from torch.utils.data import DataLoader

from vitfw.console import log
from vitfw.data.decode import Decoder, Samples, collate
from vitfw.data.images import ArrayImages, EncodedImages
from vitfw.data.loaders import NoteBad
from vitfw.memory import total_memory
from vitfw.progress_bar import LongWork

BATCH = 64
MOST_DECODED = 4 << 30  # bytes of a split that is decoded without being asked for


class MemoryShare:
    """How much of `share` of a device's memory is left, while one split after another is held.

    Processes of one machine divide its memory by what LOCAL_WORLD_SIZE says.
    """

    def __init__(self, share: float):
        self.share = share
        self._held: dict[str, int] = {}

    def takes(self, size: int, device: torch.device) -> bool:
        """Whether so many bytes more fit; if so, they are counted."""
        allowed = self.share * total_memory(device)
        if device.type == "cpu":
            allowed /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        held = self._held.get(str(device), 0) + size
        if held > allowed:
            return False
        self._held[str(device)] = held
        return True


def decode_all(
    images: EncodedImages,
    size: tuple[int, int],
    channels: int,
    crop_share: float,
    num_workers: int,
    note_bad: NoteBad,
) -> ArrayImages:
    """Decode every image once, fitted to `size`; those that cannot be read are left out.

    An image that has `size` already is kept to the bit.
    """
    decoder = Decoder(images, size, channels, crop_share=crop_share)
    places = [(i, 0) for i in range(len(images))]
    loader: DataLoader[Samples] = DataLoader(
        decoder,
        BATCH,
        sampler=places,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    pixels = torch.empty(len(images), channels, *size, dtype=torch.uint8)
    labels = torch.empty(len(images), dtype=torch.int64)
    filled = 0
    with LongWork("decoding images", len(images)) as work:
        for samples in loader:
            if samples.bad:
                note_bad([(images.name(i), reason) for i, reason in samples.bad], len(images))
            end = filled + len(samples.labels)
            if len(samples.labels):
                pixels[filled:end], labels[filled:end] = samples.images, samples.labels
            filled = end
            work.update(len(samples.labels) + len(samples.bad))
    log.info(f"{filled:,} images decoded once, {pixels.nbytes / 2**20:,.0f} MiB held as pixels")
    return ArrayImages(pixels[:filled], labels[:filled])

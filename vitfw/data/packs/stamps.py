"""By what a changed image is noticed, before it is mixed with what was packed already."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from vitfw.data.images import ArrayImages, FileImages, Images
from vitfw.data.transforms import UnreadableImage

NO_IMAGE = "-"  # the stamp of what is not there


class Stamps:
    """A digest of each image and its label, as text.

    Of a file its name below the folder that all files of the split are in, its size and time:
    nothing is read, and the folder may move. Of images held in memory or in a table, the content.
    """

    def __init__(self, images: Images):
        self.images = images
        self.folder = _common_folder(images)

    def __getitem__(self, i: int) -> str:
        digest = hashlib.blake2b(str(int(self.images.labels[i])).encode(), digest_size=8)
        try:
            digest.update(self._told(i))
        except (OSError, UnreadableImage):
            return NO_IMAGE
        return digest.hexdigest()

    def _told(self, i: int) -> bytes:
        if isinstance(self.images, ArrayImages):
            pixels = self.images.images[i]
            return f"{tuple(pixels.shape)}".encode() + pixels.cpu().numpy().tobytes()
        source = self.images.open(i)
        if not isinstance(source, str):
            return source.read()
        path = Path(source)
        name = path.name if self.folder is None else source.removeprefix(self.folder)
        status = path.stat()
        return os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}")

    def of_all(self, without: Collection[int] = ()) -> str:
        """One digest of all images in order, but for those that are skipped."""
        left_out = set(without)
        return joined([self[i] for i in range(len(self.images)) if i not in left_out])


def joined(stamps: Collection[str]) -> str:
    return hashlib.sha256(" ".join(stamps).encode()).hexdigest()


def _common_folder(images: Images) -> str | None:
    """The part that all paths begin with; None where there is no list of paths."""
    if not isinstance(images, FileImages):
        return None
    try:
        return os.path.commonpath(
            {images.open(i).rpartition(os.sep)[0] for i in range(len(images))}
        )
    except ValueError:  # absolute paths beside relative ones
        return ""

"""How a pack is made."""

from dataclasses import dataclass
from typing import Literal

from vitfw.errors import ConfigError

LARGEST_SHARD_MB = 2048  # litdata's offsets have 32 bits


@dataclass(frozen=True)
class PackOptions:
    """`size`: image files whose shorter side is longer are resized to it. `quality`: of JPEG, 1 to
    100; "raw" stores the pixels of the middle `size` × `size`. `chunk_mb`: megabytes a shard.

    Sets that are arrays are stored as they are: neither size nor quality applies.

    Raises:
        ConfigError: a value that cannot be.
    """

    size: int = 256
    quality: int | Literal["raw"] = 90
    chunk_mb: float = 64

    def __post_init__(self):
        if type(self.size) is not int or self.size < 1:
            raise ConfigError(f"size={self.size} must be a whole number of pixels, such as 256")
        if self.quality != "raw" and not (type(self.quality) is int and 1 <= self.quality <= 100):
            raise ConfigError(f"quality={self.quality} is neither 1 to 100 nor raw")
        known = isinstance(self.chunk_mb, int | float)
        if not known or not 0 < self.chunk_mb <= LARGEST_SHARD_MB:
            raise ConfigError(f"chunk_mb={self.chunk_mb} must be above 0, at most 2048")

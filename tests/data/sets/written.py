"""What a writer of a data set's files gives, and what all of them need."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Written(NamedTuple):
    """What is to be read of a split. `images`: pixels, or a path below the root for each."""

    images: np.ndarray | list[Path]
    labels: list[int]


Writer = Callable[[pytest.MonkeyPatch, Path], dict[str, Written]]  # what each split holds


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def every_class(num_classes: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(count) % num_classes)


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

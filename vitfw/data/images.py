"""The images of a split before they are batches: pixels in one tensor, or files to be decoded."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ArrayImages:
    """Images [N, C, H, W] uint8 and labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "ArrayImages":
        return ArrayImages(self.images[index], self.labels[index])

    def name(self, i: int) -> str:
        return f"image {i}"


class EncodedImages(ABC):
    """Images that PIL has to decode one by one, and their labels [N] int64."""

    def __init__(self, labels: Tensor):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, index: Tensor) -> "EncodedImages": ...

    @abstractmethod
    def open(self, i: int) -> str | BinaryIO:
        """What PIL can open: a path, or a file held in memory."""

    @abstractmethod
    def name(self, i: int) -> str:
        """What a person would look for: the path, or the row."""


class FileImages(EncodedImages):
    """Image files. The paths are one array of bytes: worker processes share it, as they would not
    share a list of a million objects.
    """

    def __init__(self, paths: np.ndarray, labels: Tensor):
        super().__init__(labels)
        self.paths = paths

    @classmethod
    def of(cls, paths: Sequence[str | Path], labels: Sequence[int] | Tensor) -> "FileImages":
        encoded = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        return cls(encoded, torch.as_tensor(labels, dtype=torch.int64))

    def subset(self, index: Tensor) -> "FileImages":
        return FileImages(self.paths[index.numpy()], self.labels[index])

    def open(self, i: int) -> str:
        return os.fsdecode(bytes(self.paths[i]))

    def name(self, i: int) -> str:
        return self.open(i)


Images = ArrayImages | EncodedImages


class Split(NamedTuple):
    """What a reader gives: the images of one split and the names of the classes, in order."""

    images: Images
    classes: tuple[str, ...]

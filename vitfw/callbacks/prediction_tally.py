"""Predictions of one pass over a split: how often which class was taken for which, and the surest.

B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from vitfw.data.transforms import denormalise

NOT_KEPT = -1.0  # where a confidence stands for a guess of the other kind
MOST_IN_MATRIX = 2000  # classes of which all pairs are counted: 32 MB


@dataclass(frozen=True)
class Guess:
    """What an image was taken for. `image` is [C, H, W] uint8."""

    image: Tensor
    truth: int
    guess: int
    confidence: float


class PredictionTally:
    """Counts (truth, guess) pairs, and keeps the `most` guesses of highest confidence, wrong and
    right.

    Batches are added on their device, without waiting for it. `finish` makes, over all processes,
    `totals` [3, K]: of each class its images, how many of them were recognised, and how often it
    was guessed; and `confusion` [K, K], rows the truth. Both are None where nothing was added, the
    latter also with more than MOST_IN_MATRIX classes. Of this process alone it makes the
    `mistakes` and the `best`, surest first. `mean` and `std` are those that images were normalised
    with.
    """

    def __init__(self, most: int, num_classes: int, mean: Sequence[float], std: Sequence[float]):
        self.num_classes = num_classes
        self.mean, self.std = mean, std
        self.confusion: Tensor | None = None
        self.totals: Tensor | None = None
        self.mistakes: list[Guess] = []
        self.best: list[Guess] = []
        self._counts: Tensor | None = None
        self._wrong, self._right = Surest(most), Surest(most)

    def add(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Normalised images [B, C, H, W], labels [B], logits [B, K]."""
        confidences, guesses = logits.float().softmax(dim=1).max(dim=1)  # [B], [B]
        confidences = confidences.nan_to_num(0.0)  # of a net that has diverged
        if self._counts is None:
            self._counts = no_counts(logits.shape[1], labels.device)
        count(self._counts, labels, guesses)
        wrong = guesses != labels
        for surest, kept in ((self._wrong, wrong), (self._right, ~wrong)):
            scores = confidences.where(kept, NOT_KEPT)
            surest.add(scores, labels, guesses, images)

    def finish(self, strategy: Strategy) -> None:
        """Bring all to the CPU. Every process of a run has to call it, whatever it has added."""
        counts = self._counts
        if counts is None:  # fewer images than processes, or a method without classes
            counts = no_counts(self.num_classes, strategy.root_device)
        counts = strategy.reduce(counts, reduce_op="sum").cpu()
        if counts.any():
            pairs = has_matrix(counts.shape[1])
            self.confusion = counts if pairs else None
            self.totals = totals_of(counts) if pairs else counts
        self.mistakes = self._wrong.guesses(self.mean, self.std)
        self.best = self._right.guesses(self.mean, self.std)
        self._counts, self._wrong, self._right = None, Surest(0), Surest(0)


def has_matrix(classes: int) -> bool:
    return classes <= MOST_IN_MATRIX


def no_counts(classes: int, device: torch.device) -> Tensor:
    """Zeros for the pairs, [K, K]; of too many classes for the totals alone, [3, K]."""
    rows = classes if has_matrix(classes) else 3
    return torch.zeros(rows, classes, dtype=torch.int64, device=device)


def count(counts: Tensor, labels: Tensor, guesses: Tensor) -> None:
    """Add labels [B] and guesses [B] to what `no_counts` began."""
    classes, ones = counts.shape[1], torch.ones_like(guesses)
    if has_matrix(classes):
        counts.view(-1).index_add_(0, labels * classes + guesses, ones)
        return
    images, right, guessed = counts
    images.index_add_(0, labels, ones)
    right.index_add_(0, labels, (labels == guesses).to(ones))
    guessed.index_add_(0, guesses, ones)


def totals_of(confusion: Tensor) -> Tensor:
    """[K, K] → [3, K], as `PredictionTally.totals`."""
    return torch.stack([confusion.sum(dim=1), confusion.diagonal(), confusion.sum(dim=0)])


class Surest:
    """The `most` rows of highest score among all that were added, kept on their device."""

    def __init__(self, most: int):
        self.most = most
        self._kept: list[Tensor] = []

    def add(self, scores: Tensor, *more: Tensor) -> None:
        """Scores [B], and any tensors [B, …] beside them."""
        rows = highest([scores, *more], self.most)
        if self._kept:
            rows = [torch.cat(pair) for pair in zip(self._kept, rows, strict=True)]
        self._kept = highest(rows, self.most)

    def guesses(self, mean: Sequence[float], std: Sequence[float]) -> list[Guess]:
        """What was kept as scores, labels, guesses and normalised images."""
        if not self._kept:
            return []
        scores, labels, guesses, images = self._kept
        columns = scores.tolist(), pixels_of(images, mean, std), labels.tolist(), guesses.tolist()
        return [
            Guess(image, truth, guess, confidence)
            for confidence, image, truth, guess in zip(*columns, strict=True)
            if confidence != NOT_KEPT
        ]


def highest(rows: list[Tensor], most: int) -> list[Tensor]:
    """The `most` rows of several tensors [B, …] where the first of them is highest."""
    places = rows[0].topk(min(most, len(rows[0]))).indices
    return [each[places] for each in rows]


def pixels_of(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised images [B, C, H, W] as they were: uint8, on the CPU."""
    return (255 * denormalise(images.cpu(), mean, std)).round().to(torch.uint8)

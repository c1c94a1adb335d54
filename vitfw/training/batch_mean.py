"""The mean of a value over batches, without waiting for the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class BatchMean(Metric):
    """The mean over samples of what is given as the mean of each batch.

    torchmetrics' own MeanMetric looks for NaN at every update, for which the device has to be
    waited for, and leaves it out: here a loss that has become NaN shows.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: int) -> None:
        self.total += value.detach() * weight
        self.count += weight

    def compute(self) -> Tensor:
        return self.total / self.count

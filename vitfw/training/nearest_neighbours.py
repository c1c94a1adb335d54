"""Classes by a vote of the nearest features: how good they are before anything is trained on them.

M known features, Q queries, C channels, K classes.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vitfw.errors import ConfigError

TEMPERATURE = 0.07  # of Wu et al. 2018
MOST_SIMILARITIES = 1 << 26  # held at once: 256 MiB of float32


def check_neighbours(ks: Sequence[int], known: int) -> None:
    """Raises ConfigError where not every k is a number of neighbours that there are."""
    wrong = [k for k in ks if type(k) is not int or not 1 <= k <= known]
    if wrong or not ks:
        raise ConfigError(
            f"knn={wrong[0] if wrong else []} is a number of neighbours, 1 to {known:,}, the "
            "training images; or several: knn=[10,20,100]"
        )


def knn_accuracy(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    num_classes: int,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, float]:
    """The share of queries that the vote of their k nearest features names rightly, for every k.

    Near is what has a high cosine similarity s; each neighbour counts exp(s / temperature). Known
    features [M, C] with labels [M], queries [Q, C] with labels [Q], on one device; `ks` as
    `check_neighbours` lets through.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", §3.4, as in DINO (Caron et al. 2021).
    """
    known = F.normalize(known.float(), dim=1)
    right = dict.fromkeys(ks, 0)
    rows = max(1, MOST_SIMILARITIES // len(known))
    for some, truth in zip(queries.split(rows), labels.split(rows), strict=True):
        similarities = F.normalize(some.float(), dim=1) @ known.T  # [q, M]
        nearest, index = similarities.topk(max(ks), dim=1)  # [q, k], the nearest first
        weights = ((nearest - 1.0) / temperature).exp()  # at most 1
        classes = known_labels[index]
        for k in right:
            votes = weights.new_zeros(len(some), num_classes)
            votes.scatter_add_(1, classes[:, :k], weights[:, :k])
            right[k] += int((votes.argmax(dim=1) == truth).sum())
    return {k: count / len(labels) for k, count in right.items()}

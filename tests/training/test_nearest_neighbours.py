"""The vote of nearest neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vitfw.errors import ConfigError
from vitfw.training import nearest_neighbours
from vitfw.training.nearest_neighbours import check_neighbours, knn_accuracy


@pytest.fixture
def clusters():
    """Five classes that overlap: known features and labels, queries and labels."""
    draw = torch.Generator().manual_seed(3)
    centres = torch.randn(5, 16, generator=draw)
    labels = torch.randint(5, (700,), generator=draw)
    features = 0.6 * centres[labels] + torch.randn(700, 16, generator=draw)
    return features[:500], labels[:500], features[500:], labels[500:]


def sklearn_accuracy(known, labels, queries, truth, k: int) -> float:
    """Cosine distance d = 1 − s; the weight exp(s / 0.07)."""
    vote = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1.0 - d) / 0.07)
    )
    vote.fit(known.double().numpy(), labels.numpy())
    return float(vote.score(queries.double().numpy(), truth.numpy()))


def test_every_k_votes_as_scikit_learns_classifier(clusters):
    found = knn_accuracy(*clusters, num_classes=5, ks=[1, 7, 20, 500])
    assert list(found) == [1, 7, 20, 500]
    for k, accuracy in found.items():
        assert accuracy == sklearn_accuracy(*clusters, k)
    assert len(set(found.values())) > 2, "the k should tell apart"


def test_the_length_of_a_feature_does_not_count(clusters):
    known, labels, queries, truth = clusters
    longer = known * torch.rand(500, 1, generator=torch.Generator().manual_seed(0)).add(0.1)
    asked = {"num_classes": 5, "ks": [7]}
    assert knn_accuracy(longer, labels, 9 * queries, truth, **asked) == knn_accuracy(
        *clusters, **asked
    )


def test_queries_in_parts_vote_as_all_at_once(clusters, monkeypatch):
    whole = knn_accuracy(*clusters, num_classes=5, ks=[20])
    monkeypatch.setattr(nearest_neighbours, "MOST_SIMILARITIES", 500 * 7)
    assert knn_accuracy(*clusters, num_classes=5, ks=[20]) == whole


@pytest.mark.parametrize("k", [0, -3, 501, True, "x", 2.5])
def test_a_k_that_cannot_be_is_refused(k):
    check_neighbours([1, 5, 500], known=500)
    with pytest.raises(ConfigError, match=rf"knn={k} is a number of neighbours, 1 to 500"):
        check_neighbours([5, k], known=500)


def test_no_k_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"knn=\[10,20,100\]"):
        check_neighbours([], known=500)

"""Cluster discrimination against numbers worked out by hand."""

import math

import pytest
import torch

from training.config import ClusterConfig
from training.losses.cluster import ClusterDiscriminationLoss


def _softmax(*logits: float) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def test_label_term() -> None:
    """Cosines (1, 0) at temperature 0.5 are logits (2, 0); the label is the second cluster."""
    loss = ClusterDiscriminationLoss(torch.eye(2), temperature=0.5, divergence=False)
    terms = loss(torch.tensor([[1.0, 0.0]]), cluster_ids=torch.tensor([1]))
    assert list(terms) == ["cluster_label"]
    assert math.isclose(terms["cluster_label"].item(), -math.log(_softmax(2, 0)[1]), rel_tol=1e-6)


def test_divergence_is_from_teacher_to_student() -> None:
    loss = ClusterDiscriminationLoss(torch.eye(2), temperature=0.5, teacher_temperature=1.0, label=False)
    terms = loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    p, q = _softmax(0, 1), _softmax(2, 0)
    expected = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert list(terms) == ["cluster_divergence"]
    assert math.isclose(terms["cluster_divergence"].item(), expected, rel_tol=1e-6)


def test_divergence_vanishes_where_student_and_teacher_agree() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    terms = ClusterDiscriminationLoss(torch.randn(7, 3), label=False)(features, features)
    assert abs(terms["cluster_divergence"].item()) < 1e-6


def test_centroids_are_normalised_and_fixed() -> None:
    loss = ClusterDiscriminationLoss(torch.tensor([[3.0, 4.0]]))
    assert torch.allclose(loss.centroids, torch.tensor([[0.6, 0.8]]))
    assert not list(loss.parameters()) and not loss.state_dict()


def test_the_loss_is_the_mean_of_its_rows() -> None:
    features = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = ClusterDiscriminationLoss(torch.randn(3, 3))
    whole = loss(features, features.flip(0), labels)
    parts = [loss(f, t, y) for f, t, y in zip(features.split(2), features.flip(0).split(2), labels.split(2))]
    for name, value in whole.items():
        assert torch.allclose(value, torch.stack([part[name] for part in parts]).mean(), atol=1e-6)


def test_terms_of_weight_zero_are_left_out() -> None:
    loss = ClusterDiscriminationLoss.from_config(ClusterConfig(label_weight=0.0), torch.eye(2))
    assert list(loss(torch.eye(2), torch.eye(2))) == ["cluster_divergence"]


def test_centroids_must_be_a_finite_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(K, D\)"):
        ClusterDiscriminationLoss(torch.zeros(3))

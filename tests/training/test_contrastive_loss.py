"""The symmetric cross-entropy against numbers worked out by hand."""

import math

import torch

from training.losses.contrastive import ContrastiveLoss


def test_two_orthogonal_pairs() -> None:
    """Logits are scale on the diagonal and 0 beside it, so each row costs log(1 + exp(-scale))."""
    features = torch.eye(2)
    terms = ContrastiveLoss()(features, features, torch.tensor(3.0))
    assert list(terms) == ["contrastive"]
    assert math.isclose(terms["contrastive"].item(), math.log(1 + math.exp(-3)), rel_tol=1e-6)


def test_both_directions_count() -> None:
    """Both captions equal the first image: rows i->t cost log 2 each, columns t->i log(1+e^-1) and log(1+e)."""
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = (math.log(2) + (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2) / 2
    loss = ContrastiveLoss()(image, text, torch.tensor(1.0))["contrastive"]
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)


def test_half_precision_features_are_compared_in_float32() -> None:
    features = torch.eye(4, dtype=torch.bfloat16)
    assert ContrastiveLoss()(features, features, torch.tensor(100.0))["contrastive"].dtype == torch.float32

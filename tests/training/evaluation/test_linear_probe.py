"""The linear probe against scikit-learn, and its choice of the regularisation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.accuracy import classification_scores
from training.evaluation.linear_probe import _held_out, _objective, fit_linear_probe, fit_logistic_regression


def _blobs(classes: int, per_class: int, noise: float, *, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Unit vectors around fixed class means, float64."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(classes).repeat(per_class)
    noise_ND = noise * torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return F.normalize(means[labels] + noise_ND + 1.0, dim=1), labels


@pytest.mark.parametrize("c", [0.1, 10.0, 1000.0])
def test_agrees_with_scikit_learn(c):
    from sklearn.linear_model import LogisticRegression

    features, labels = _blobs(classes=6, per_class=20, noise=1.0)
    oracle = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(features.numpy(), labels.numpy())
    weights, bias = fit_logistic_regression(features, labels, classes=6, c=c, iterations=2000, tolerance=1e-9)
    found = F.softmax(features @ weights.T + bias, dim=1)
    expected = torch.from_numpy(oracle.predict_proba(features.numpy()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(weights, torch.from_numpy(oracle.coef_), atol=2e-3, rtol=2e-3)


def test_gradient_and_blocks(monkeypatch):
    features, labels = _blobs(classes=4, per_class=9, noise=1.0)
    weights = torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(features @ weights.T + bias, labels) + 0.3 / 2 * weights.square().sum()
    expected.backward()
    monkeypatch.setattr("training.evaluation.linear_probe._BLOCK_ROWS", 5)
    value, weights_grad, bias_grad = _objective(features, labels, weights.detach(), bias.detach(), 0.3)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(weights_grad, weights.grad)
    torch.testing.assert_close(bias_grad, bias.grad)


def test_sweep_takes_what_generalises():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.zeros(450), torch.ones(150)]).long()[torch.randperm(600, generator=generator)]
    # Very strong regularisation gives everything to the larger class, none at all fits the noise of 60 coordinates.
    features = torch.randn(600, 60, generator=generator)
    features[:, 0] += 3.0 * labels
    features = F.normalize(features, dim=1)
    weights, bias, c = fit_linear_probe(features[:300], labels[:300], classes=2, sweep=[1e-6, 1e-5, 1.0, 1e5, 1e6])
    assert c == 1.0
    assert classification_scores(features[300:], labels[300:], weights, bias)["top1"] > 0.8


def test_same_seed_same_probe():
    features, labels = _blobs(classes=5, per_class=8, noise=1.0)
    first, second = (fit_linear_probe(features, labels, classes=5, seed=3) for _ in range(2))
    assert first[2] == second[2]
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)


def test_one_row_a_class_is_fitted_unchecked(caplog):
    features, labels = torch.eye(4), torch.arange(4)
    weights, bias, c = fit_linear_probe(features, labels, classes=4, sweep=[1.0, 10.0, 100.0])
    assert c == 10.0 and "unchecked" in caplog.text
    assert classification_scores(features, labels, weights, bias)["top1"] == 1


def test_held_out_rows_are_a_fifth_of_each_class():
    labels = torch.cat([torch.zeros(50), torch.ones(4), torch.full((1,), 2)]).long()
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    held_out = _held_out(labels, seed=0)
    assert [int(held_out[labels == label].sum()) for label in range(3)] == [10, 1, 0]

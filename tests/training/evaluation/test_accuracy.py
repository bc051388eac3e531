"""Scores of a classifier against scikit-learn's, in double precision."""

import numpy as np
import pytest
import torch

from training.evaluation import accuracy
from training.evaluation.accuracy import classification_scores


@pytest.mark.parametrize("absent", [(), (3,), (0, 6)])
def test_scores_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, absent: tuple[int, ...]) -> None:
    from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

    generator = np.random.default_rng(len(absent))
    weights, bias = generator.normal(size=(7, 5)), generator.normal(size=7)
    labels = generator.choice([label for label in (0, 0, 0, 1, 2, 3, 4, 5, 6) if label not in absent], size=200)
    features = weights[labels] + 2 * generator.normal(size=(200, 5))
    logits = features @ weights.T + bias
    monkeypatch.setattr(accuracy, "_BLOCK_ROWS", 64)
    found = classification_scores(*map(torch.from_numpy, (features, labels, weights, bias)))
    predicted = logits.argmax(axis=1)
    with pytest.warns(UserWarning) if absent else np.errstate():
        expected = balanced_accuracy_score(labels, predicted)
    assert found["mean_per_class_recall"] == pytest.approx(expected, abs=1e-12)
    present = sorted(set(labels))
    macro = recall_score(labels, predicted, labels=present, average="macro")
    assert found["mean_per_class_recall"] == pytest.approx(macro, abs=1e-12)
    assert found["top1"] == pytest.approx((predicted == labels).mean(), abs=1e-12)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=range(7))
    assert found["top5"] == pytest.approx(top5, abs=1e-12)
    assert found["top1"] < 0.95 and found["top1"] != found["mean_per_class_recall"]


def test_a_class_without_a_row_is_left_out_of_the_mean() -> None:
    features, labels = torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 0])
    assert classification_scores(features, labels, torch.eye(3))["mean_per_class_recall"] == 0.75

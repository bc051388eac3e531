"""Zero-shot classification with a model whose answers are known."""

import pytest
import torch

from training.evaluation.accuracy import classification_scores
from training.evaluation.zero_shot import prompt_ensemble

CLASSNAMES = ("red", "green", "blue")


def test_weights_are_unit_class_directions(color_clip):
    weights = prompt_ensemble(color_clip, CLASSNAMES, ["a {c} thing", "{c}, {not a field}"], batch_size=2)
    assert weights.shape == (3, 3)
    torch.testing.assert_close(weights, torch.eye(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(3))


def test_ensemble_is_the_normalized_mean_of_unit_prompts(color_clip):
    tokens = {"x": [3.0, 0.0, 0.0], "y": [0.0, 1.0, 0.0]}

    class Fixed(type(color_clip)):
        pass

    clip = Fixed(
        model=color_clip.model,
        preprocess=color_clip.preprocess,
        tokenizer=lambda texts: torch.tensor([tokens[text] for text in texts]),
        device="cpu",
        embed_dim=3,
    )
    weights = prompt_ensemble(clip, [""], ["x{c}", "y{c}"], batch_size=8)
    torch.testing.assert_close(weights, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]]))


def test_accuracy_by_hand():
    weights = torch.eye(6)
    # Row 0 ranks class 0 first; row 1 ranks class 5 second; row 2 ranks class 0 last of six.
    features = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]])
    found = classification_scores(features, torch.tensor([0, 5, 0]), weights)
    assert found == {"top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3), "mean_per_class_recall": 0.25}


def test_bias_moves_the_decision():
    features, labels = torch.tensor([[1.0, 0.5]]), torch.tensor([1])
    assert classification_scores(features, labels, torch.eye(2))["top1"] == 0
    assert classification_scores(features, labels, torch.eye(2), torch.tensor([0.0, 1.0]))["top1"] == 1


def test_blocks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.randn(100, 8, generator=generator), torch.randn(20, 8, generator=generator)
    labels = torch.randint(20, (100,), generator=generator)
    whole = classification_scores(features, labels, weights)
    monkeypatch.setattr("training.evaluation.accuracy._BLOCK_ROWS", 7)
    assert classification_scores(features, labels, weights) == whole

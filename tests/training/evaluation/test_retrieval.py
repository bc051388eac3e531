"""Retrieval against a loop over all pairs, with several captions an image and captions that read alike."""

import random

import pytest
import torch
import torch.nn.functional as F

from training.evaluation.retrieval import RANKS, image_hits, retrieval_recall, unique_texts


def _by_loop(scores: dict[tuple[int, str], float], captions: list[list[str]]) -> dict[str, float]:
    """Recalls from scores of (image, text), one query and one candidate after another."""
    listed = [(image, text) for image, own in enumerate(captions) for text in own]
    found = {}
    for k in RANKS:
        hits = 0
        for image, own in enumerate(captions):
            best = max(scores[image, text] for text in own)
            hits += sum(scores[image, text] >= best for _, text in listed if text not in own) < k
        found[f"image_to_text_recall@{k}"] = hits / len(captions)
        hits = 0
        for _, text in listed:
            right = [image for image, own in enumerate(captions) if text in own]
            best = max(scores[image, text] for image in right)
            hits += sum(scores[image, text] >= best for image in range(len(captions)) if image not in right) < k
        found[f"text_to_image_recall@{k}"] = hits / len(listed)
    return found


@pytest.mark.parametrize("block_elements", [1, 100, 1 << 20])
def test_agrees_with_a_loop(block_elements):
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    captions = [[f"text {rng.randrange(40)}" for _ in range(rng.randint(1, 3))] for _ in range(50)]
    texts, images, ids = unique_texts(captions)
    text_features = F.normalize(torch.randn(len(texts), 6, generator=generator), dim=1)
    # Each image lies near one of its captions, so that recall is neither all nor nothing.
    own = torch.tensor([texts.index(captions[image][0]) for image in range(50)])
    image_features = F.normalize(text_features[own] + 0.5 * torch.randn(50, 6, generator=generator), dim=1)
    matrix = image_features.double() @ text_features.double().T
    scores = {(i, text): float(matrix[i, j]) for i in range(50) for j, text in enumerate(texts)}
    found = retrieval_recall(
        image_features.double(), text_features.double(), images, ids, block_elements=block_elements
    )
    assert found == pytest.approx(_by_loop(scores, captions))
    assert 0.05 < found["image_to_text_recall@1"] < 0.95
    hits = image_hits(image_features.double(), text_features.double(), images, ids, block_elements=block_elements)
    assert hits.shape == (50,) and float(hits.double().mean()) == found["image_to_text_recall@1"]


def test_perfect_model():
    texts, images, ids = unique_texts([["a"], ["b"], ["c"]])
    assert texts == ["a", "b", "c"]
    assert set(retrieval_recall(torch.eye(3), torch.eye(3), images, ids).values()) == {1.0}


def test_equal_captions_are_all_right():
    _, images, ids = unique_texts([["same"], ["same"], ["other"]])
    # Image 1's feature is image 0's: without equal captions as right answers one of the two would miss.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = retrieval_recall(features, torch.eye(2), images, ids)
    assert found["image_to_text_recall@1"] == 1 and found["text_to_image_recall@1"] == 1


def test_a_collapsed_model_scores_nothing():
    _, images, ids = unique_texts([[str(number)] for number in range(20)])
    found = retrieval_recall(torch.ones(20, 4), torch.ones(20, 4), images, ids)
    assert set(found.values()) == {0.0}

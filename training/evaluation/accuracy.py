"""Scores of a linear classifier, whether its weights come from prompts or from a probe."""

import torch
from torch import Tensor

# Rows whose logits are held at once.
_BLOCK_ROWS = 8192


def classification_scores(
    features: Tensor, labels: Tensor, weights: Tensor, bias: Tensor | None = None
) -> dict[str, float]:
    """``{"top1", "top5", "mean_per_class_recall"}``, each in [0, 1].

    ``features``: ``(N, D)``; ``labels``: ``(N,)`` int64; ``weights``: ``(K, D)``; ``bias``: ``(K,)``. The first two are
    shares of rows whose label is the best, or among the five best, of its logits; with fewer than five classes the top
    five are all of them. The third is the mean over classes of the share of a class's rows for which it is the best
    (scikit-learn's ``balanced_accuracy_score``): a class without a row has no such share, and is left out of the mean.
    """
    best, classes = min(5, len(weights)), len(weights)
    offset = weights.new_zeros(classes) if bias is None else bias
    hits = torch.zeros(best, dtype=torch.int64, device=features.device)
    right = torch.zeros(classes, dtype=torch.int64, device=features.device)
    for rows, wanted in zip(features.split(_BLOCK_ROWS), labels.split(_BLOCK_ROWS)):
        found = torch.addmm(offset, rows, weights.T).topk(best, dim=1).indices == wanted[:, None]
        hits += found.sum(dim=0)
        right += wanted[found[:, 0]].bincount(minlength=classes)
    sizes = labels.bincount(minlength=classes)
    recalls = right[sizes > 0].double() / sizes[sizes > 0]
    return {
        "top1": int(hits[0]) / len(features),
        "top5": int(hits.sum()) / len(features),
        "mean_per_class_recall": float(recalls.mean()),
    }

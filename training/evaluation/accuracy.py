"""Top-k accuracy of a linear classifier, whether its weights come from prompts or from a probe."""

import torch
from torch import Tensor

# Rows whose logits are held at once.
_BLOCK_ROWS = 8192


def topk_accuracy(features: Tensor, labels: Tensor, weights: Tensor, bias: Tensor | None = None) -> dict[str, float]:
    """``{"top1", "top5"}``: share of rows whose label is the best, or among the five best, of its logits.

    ``features``: ``(N, D)``; ``labels``: ``(N,)`` int64; ``weights``: ``(K, D)``; ``bias``: ``(K,)``. With fewer than
    five classes the top five are all of them.
    """
    best = min(5, len(weights))
    offset = weights.new_zeros(len(weights)) if bias is None else bias
    hits = torch.zeros(best, dtype=torch.int64, device=features.device)
    for rows, wanted in zip(features.split(_BLOCK_ROWS), labels.split(_BLOCK_ROWS)):
        predicted = torch.addmm(offset, rows, weights.T).topk(best, dim=1).indices
        hits += (predicted == wanted[:, None]).sum(dim=0)
    return {"top1": int(hits[0]) / len(features), "top5": int(hits.sum()) / len(features)}

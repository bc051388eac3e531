"""Zero-shot classification: class names in prompts, embedded by the model, serve as the classifier."""

from collections.abc import Callable, Sequence

import open_clip
import torch
from torch import Tensor

from pipeline.errors import EmbeddingError
from pipeline.teacher import LoadedClip
from training.evaluation.datasets import PLACEHOLDER

# Rows whose logits are held at once.
_BLOCK_ROWS = 8192


def prompt_ensemble(
    clip: LoadedClip, classnames: Sequence[str], templates: Sequence[str], *, batch_size: int
) -> Tensor:
    """Classifier weights ``(K, D)``: per class the normalised mean of its prompts' normalised features (CLIP, 3.1.4)."""
    weights = open_clip.build_zero_shot_classifier(
        clip.model,
        clip.tokenizer,
        classnames,
        [_prompt(template) for template in templates],
        num_classes_per_batch=max(1, batch_size // len(templates)),
        device=clip.device,
    )
    weights_KD = weights.T.float().cpu()
    if not weights_KD.isfinite().all():
        raise EmbeddingError("features of the class prompts are not finite")
    return weights_KD


def topk_accuracy(features: Tensor, labels: Tensor, weights: Tensor) -> dict[str, float]:
    """``{"top1", "top5"}``: share of rows whose label is the best, or among the five best, of its logits.

    ``features``: ``(N, D)``; ``labels``: ``(N,)`` int64; ``weights``: ``(K, D)``. With fewer than five classes the top
    five are all of them.
    """
    best = min(5, len(weights))
    hits = torch.zeros(best)
    for start in range(0, len(features), _BLOCK_ROWS):
        logits_BK = features[start : start + _BLOCK_ROWS] @ weights.T
        predicted = logits_BK.topk(best, dim=1).indices
        hits += (predicted == labels[start : start + _BLOCK_ROWS, None]).sum(dim=0)
    return {"top1": float(hits[0]) / len(features), "top5": float(hits.sum()) / len(features)}


def _prompt(template: str) -> Callable[[str], str]:
    # Not str.format: a prompt may hold other braces.
    return lambda classname: template.replace(PLACEHOLDER, classname)

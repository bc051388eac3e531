"""Image-text retrieval: recall at k, both ways."""

from collections.abc import Sequence

import torch
from torch import Tensor

RANKS = (1, 5, 10)

# Elements of the block of similarities held at once: 128 MB in float32.
_BLOCK_ELEMENTS = 1 << 25


def unique_texts(captions: Sequence[Sequence[str]]) -> tuple[list[str], Tensor, Tensor]:
    """The distinct captions of all images, and which image has which.

    Returns ``(texts, images, ids)``: caption number j of all, counted through, belongs to image ``images[j]`` and reads
    ``texts[ids[j]]``.
    """
    numbers: dict[str, int] = {}
    pairs = [(image, numbers.setdefault(text, len(numbers))) for image, own in enumerate(captions) for text in own]
    images, ids = torch.tensor(pairs, dtype=torch.int64).T
    return list(numbers), images, ids


def retrieval_recall(
    image_features: Tensor,
    text_features: Tensor,
    images: Tensor,
    ids: Tensor,
    *,
    ranks: Sequence[int] = RANKS,
    block_elements: int = _BLOCK_ELEMENTS,
) -> dict[str, float]:
    """Recall at k, from images to texts and back.

    A query is a hit at k if fewer than k wrong candidates score at least as high as its best right one: ties count
    against the model, so that one which embeds everything alike scores zero. Captions that read alike are all right for
    an image that has one of them, and each takes a place of its own among the candidates.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(U, D)`` of the distinct texts.
        images: as of :func:`unique_texts`.
        ids: the same.
        ranks: every k.
        block_elements: scores that are held at a time.

    Returns:
        ``{"image_to_text_recall@1": ..., "text_to_image_recall@1": ..., ...}``, in [0, 1].
    """
    copies = torch.bincount(ids, minlength=len(text_features))
    places = _places(image_features, text_features, images, ids, copies, block_elements=block_elements)
    result = {f"image_to_text_recall@{k}": float((places < k).double().mean()) for k in ranks}
    # A text's place is the same for all its copies: one query each.
    once = torch.ones(len(image_features), device=image_features.device)
    places = _places(text_features, image_features, ids, images, once, block_elements=block_elements)[ids]
    return result | {f"text_to_image_recall@{k}": float((places < k).double().mean()) for k in ranks}


def image_hits(
    image_features: Tensor,
    text_features: Tensor,
    images: Tensor,
    ids: Tensor,
    *,
    block_elements: int = _BLOCK_ELEMENTS,
) -> Tensor:
    """``(N,)`` bool: which images are hits at 1 among the texts. Arguments, ties and captions that read alike as in
    :func:`retrieval_recall`, whose ``image_to_text_recall@1`` is the mean."""
    copies = torch.bincount(ids, minlength=len(text_features))
    return _places(image_features, text_features, images, ids, copies, block_elements=block_elements) < 1


def _places(
    queries: Tensor, candidates: Tensor, query_of: Tensor, right_of: Tensor, copies: Tensor, *, block_elements: int
) -> Tensor:
    """``(Q,)``: how many wrong candidates score at least as high as the best right one, each as often as ``copies``.

    Pair j says that candidate ``right_of[j]`` is right for query ``query_of[j]``.
    """
    order = query_of.argsort(stable=True)
    query_of, right_of = query_of[order], right_of[order]
    weights = copies.to(queries)
    rows = max(1, block_elements // len(candidates))
    places = []
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ candidates.T
        first, last = torch.searchsorted(query_of, torch.tensor([start, start + len(scores)], device=query_of.device))
        row, column = query_of[first:last] - start, right_of[first:last]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce_(0, row, scores[row, column], "amax")
        scores[row, column] = -torch.inf
        places.append((scores >= best[:, None]).to(weights.dtype) @ weights)
    return torch.cat(places)

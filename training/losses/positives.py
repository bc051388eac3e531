"""The labels of an image where it has several: its cluster, and those whose centroids are nearest to it otherwise."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses.centroid_softmax import leave_out
from training.losses.centroids import Centroids
from training.losses.gather import all_rows, row_offset, world_size
from training.losses.online_softmax import CHUNK_ELEMENTS
from training.losses.precision import factor_dtype, product, widen


@torch.no_grad()
def nearest_clusters(
    teacher_BD: Tensor,
    cluster_ids: Tensor,
    centroids: Centroids,
    *,
    count: int,
    float16: bool | None = None,
    elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """``(B, count)`` cluster ids for each row of this rank: its own, then the nearest others (MLCD, arXiv 2407.17331).

    Nearest is what has the largest cosine with the teacher's embedding, as in the loss; which of two is nearer is
    decided by the products that the loss has (``precision.py`` has their bounds). All ranks call it where centroids are
    divided.

    Args:
        teacher_BD: the teacher's embeddings ``(B, D)``.
        cluster_ids: ``(B,)``, which need not be the nearest by this measure.
        centroids: all of them or this rank's share, more than ``count`` in all.
        count: labels of a row, two at least.
        float16: as in :func:`softmax_over_centroids`.
        elements: cosines that are held at a time.
    """
    divided = len(centroids) < centroids.total and world_size() > 1
    rows_BD = F.normalize(widen(teacher_BD), dim=-1)
    rows_GD, own_G = (all_rows(rows_BD), all_rows(cluster_ids)) if divided else (rows_BD, cluster_ids)
    dtype = factor_dtype(rows_BD, learnable=False, float16=float16)
    cosine_GK = rows_GD.new_full((len(rows_GD), count - 1), -torch.inf)
    nearest_GK = torch.zeros_like(cosine_GK, dtype=torch.long)
    factors_GD, chunk = rows_GD.to(dtype), max(elements // max(len(rows_GD), 1), 1)
    for positions, centroids_CD in centroids.chunks(None, chunk, dtype):
        assert isinstance(positions, slice)
        cosine_GC = product(factors_GD, centroids_CD.T)
        leave_out(cosine_GC, own_G[:, None] - centroids.start, positions, -torch.inf)
        found = cosine_GC.topk(min(count - 1, cosine_GC.shape[1]), dim=1)
        ids = found.indices + (centroids.start + positions.start)
        cosine_GK, nearest_GK = _best([cosine_GK, found.values], [nearest_GK, ids], count - 1)
    if divided:
        parts = [all_rows(part).chunk(world_size()) for part in (cosine_GK, nearest_GK)]
        _, nearest_GK = _best(list(parts[0]), list(parts[1]), count - 1)
        first = row_offset(len(rows_BD))
        nearest_GK = nearest_GK[first : first + len(rows_BD)]
    return torch.cat([cluster_ids[:, None], nearest_GK], dim=1)


def _best(values: list[Tensor], ids: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, and the ids that belong to them."""
    best = torch.cat(values, dim=1).topk(count, dim=1)
    return best.values, torch.cat(ids, dim=1).gather(1, best.indices)

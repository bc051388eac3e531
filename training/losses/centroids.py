"""The centroids that a rank holds: all of them or a share, fixed or learnable."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.precision import widen

_ROWS_AT_A_TIME = 65_536


class Centroids(nn.Module):
    """Rows ``start`` to ``start + len - 1`` of ``total`` centroids, seen through :meth:`chunks` as unit vectors.

    ``weight``: ``(N, D)``. Fixed, it is a buffer, normalized in place and kept as it comes, in float32 or float16.
    Learnable, it is a float32 parameter whose gradient is sparse: only the centroids of a step's sample are touched, by
    an optimizer of this rank alone (Partial FC, arXiv 2010.05222).
    """

    weight: Tensor

    def __init__(self, weight: Tensor, *, start: int = 0, total: int | None = None, learnable: bool = False):
        super().__init__()
        if weight.ndim != 2 or not torch.isfinite(weight).all():
            raise ValueError(f"centroids must be a finite (K, D) matrix, got shape {tuple(weight.shape)}")
        self.start, self.total, self.learnable = start, len(weight) if total is None else total, learnable
        if learnable:
            self.weight = nn.Parameter(weight)
            return
        for rows in weight.split(_ROWS_AT_A_TIME):
            rows.copy_(F.normalize(widen(rows), dim=-1))
        self.register_buffer("weight", weight, persistent=False)

    def __len__(self) -> int:
        return len(self.weight)

    def fixed(self) -> "Centroids":
        """These as they are now: themselves, or a fixed copy of learnable ones."""
        if not self.learnable:
            return self
        return Centroids(self.weight.detach().clone(), start=self.start, total=self.total)

    def chunks(self, chosen: Tensor | None, rows: int, dtype: torch.dtype) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Positions in ``weight`` and their unit vectors ``(C, D)``, at most ``rows`` at a time.

        ``chosen``: positions; none means all, and then nothing is copied.
        """
        if chosen is None:
            for first in range(0, len(self), rows):
                part = slice(first, first + rows)
                yield part, self.unit(part, dtype)
        else:
            # An empty tensor would be split into one empty part.
            for positions in chosen.split(rows) if len(chosen) else ():
                yield positions, self.unit(positions, dtype)

    def unit(self, positions: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """Unit vectors of some positions."""
        vectors = self.weight.detach()[positions].to(dtype)
        return F.normalize(vectors, dim=-1) if self.learnable else vectors

    def sparse_gradient(self, positions: Tensor, gradient_SD: Tensor) -> Tensor:
        """From the gradient of unit vectors to that of ``weight``, zero for all but ``positions``."""
        vectors_SD = self.weight.detach()[positions].to(gradient_SD.dtype)
        length_S1 = vectors_SD.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        unit_SD = vectors_SD / length_S1
        along_S1 = (unit_SD * gradient_SD).sum(dim=1, keepdim=True)
        values_SD = ((gradient_SD - along_S1 * unit_SD) / length_S1).to(self.weight.dtype)
        return torch.sparse_coo_tensor(
            positions[None], values_SD, self.weight.shape, is_coalesced=True, check_invariants=False
        )

    def own(self, cluster_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these clusters are held here, as a mask, and their positions in ``weight``."""
        here = (cluster_ids >= self.start) & (cluster_ids < self.start + len(self))
        return here, cluster_ids[here] - self.start


def share_of(total: int, *, rank: int, ranks: int) -> range:
    """The cluster ids that a rank holds when they are divided: contiguous, their numbers differing by one at most."""
    return range(rank * total // ranks, (rank + 1) * total // ranks)

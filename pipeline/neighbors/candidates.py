"""Candidates of a block on a CPU: a matrix product, then a scan of its scores."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def plain_candidates(
    left: "Tensor", right: "Tensor", least: float, same: bool, *, buffer: "Tensor | None" = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (a, b) in two sides whose score is at least ``least``; of equal sides those with a < b."""
    import torch

    out = None if buffer is None else buffer[: len(left) * len(right)].view(len(left), len(right))
    scores = torch.mm(left, right.T, out=out)
    # Where near pairs are rare, one pass over row maxima settles almost all rows.
    rows = torch.nonzero(scores.amax(dim=1) >= least)[:, 0]
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    hit = scores[rows] >= least if len(rows) < len(scores) else scores >= least
    if same:
        hit &= torch.arange(scores.shape[1], device=scores.device)[None, :] > rows[:, None]
    at, b = torch.nonzero(hit, as_tuple=True)
    return rows[at].cpu().numpy(), b.cpu().numpy()

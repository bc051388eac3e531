"""Rows of all ranks, with gradients that make the global batch equal to one process that holds it all.

Each rank computes its loss on local rows against gathered columns. The global loss is the mean of those over ranks,
and the engine averages gradients over ranks, so a gathered tensor's gradient must be the *sum* of what every rank's
loss says about it. Averaging here as well would scale gradients with 1 / world size.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed was not initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows_BD: Tensor) -> Tensor:
    """``(B, D)`` on each rank to ``(world * B, D)`` on all, in rank order; differentiable. B must be equal on all."""
    if world_size() == 1:
        return rows_BD
    return torch.as_tensor(_GatherRows.apply(rows_BD))


def all_rows(rows_BD: Tensor) -> Tensor:
    """As :func:`gather_rows`, without gradient."""
    parts = [torch.empty_like(rows_BD) for _ in range(world_size())]
    dist.all_gather(parts, rows_BD.contiguous())
    return torch.cat(parts)


def sum_own_rows(rows_GD: Tensor) -> Tensor:
    """The sum over ranks of ``(world * B, D)``, of which each rank gets its own ``(B, D)``."""
    rows = len(rows_GD) // world_size()
    if dist.get_backend() == "nccl":
        own = torch.empty_like(rows_GD[:rows])
        dist.reduce_scatter_tensor(own, rows_GD.contiguous())
        return own
    total = rows_GD.contiguous().clone()
    dist.all_reduce(total)
    return total[row_offset(rows) :][:rows]


def row_offset(rows: int) -> int:
    """Where this rank's rows start among those of all ranks."""
    return dist.get_rank() * rows if world_size() > 1 else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        return all_rows(rows_BD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_own_rows(gradients[0])

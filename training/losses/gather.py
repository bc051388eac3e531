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
    """Number of ranks; 1 where torch.distributed was not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows_BD: Tensor) -> Tensor:
    """``(B, D)`` on each rank to ``(world * B, D)`` on all, in rank order; differentiable. B must be equal on all."""
    if world_size() == 1:
        return rows_BD
    return torch.as_tensor(_GatherRows.apply(rows_BD))


def row_offset(rows: int) -> int:
    """Where this rank's rows start among those of all ranks."""
    return dist.get_rank() * rows if world_size() > 1 else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        ctx.rows = rows_BD.shape[0]
        parts = [torch.empty_like(rows_BD) for _ in range(world_size())]
        dist.all_gather(parts, rows_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]

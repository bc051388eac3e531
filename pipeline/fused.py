"""The candidates of a block on a GPU in one kernel: scores live in registers, only positions of candidates are written.

The plain path writes the block's scores to memory and reads them again; here a thread block multiplies its two strips
of columns, compares, and, where anything is left, reserves places in the output with one atomic addition.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

_CAPACITY = 1 << 24


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    left, right, found_a, found_b, counter,
    rows, columns, width, least,
    capacity: tl.constexpr, same: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row_block, column_block = tl.program_id(0), tl.program_id(1)
    # Of a block against itself, nothing below the diagonal.
    if (not same) or (column_block * BLOCK_N + BLOCK_N > row_block * BLOCK_M):
        i = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
        j = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
        scores = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, width, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(
                left + i[:, None] * width + k[None, :], mask=(i[:, None] < rows) & (k[None, :] < width), other=0.0
            )
            y = tl.load(
                right + j[None, :] * width + k[:, None], mask=(j[None, :] < columns) & (k[:, None] < width), other=0.0
            )
            scores = tl.dot(x, y, scores, input_precision=PRECISION)
        hit = (scores >= least) & (i[:, None] < rows) & (j[None, :] < columns)
        if same:
            hit = hit & (j[None, :] > i[:, None])
        flags = tl.reshape(hit.to(tl.int32), (BLOCK_M * BLOCK_N,))
        total = tl.sum(flags, axis=0)
        if total > 0:
            base = tl.atomic_add(counter, total)
            place = base + tl.cumsum(flags, axis=0) - 1
            keep = (flags > 0) & (place < capacity)
            flat = tl.arange(0, BLOCK_M * BLOCK_N)
            tl.store(found_a + place, row_block * BLOCK_M + flat // BLOCK_N, mask=keep)
            tl.store(found_b + place, column_block * BLOCK_N + flat % BLOCK_N, mask=keep)


def fused_candidates(
    left: "Tensor",
    right: "Tensor",
    least: float,
    same: bool,
    *,
    capacity: int = _CAPACITY,
    buffer: None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Like :func:`pipeline.tiles.plain_candidates`, which takes over when ``capacity`` is exceeded."""
    from pipeline.tiles import plain_candidates

    a, b, count = launch(left.contiguous(), right.contiguous(), least, same, capacity=capacity)
    if count > capacity:
        return plain_candidates(left, right, least, same)
    # Thread blocks finish in any order; sorted, the answer is the same every time.
    order = torch.argsort(a[:count].long() * len(right) + b[:count])
    return a[:count][order].long().cpu().numpy(), b[:count][order].long().cpu().numpy()


def launch(left: "Tensor", right: "Tensor", least: float, same: bool, *, capacity: int) -> "tuple[Tensor, Tensor, int]":
    """Run the kernel: positions found, in any order, and how many there were, even if more than ``capacity``."""
    device, width = left.device, left.shape[1]
    a, b = (torch.empty(capacity, dtype=torch.int32, device=device) for _ in range(2))
    counter = torch.zeros(1, dtype=torch.int32, device=device)
    short = left.dtype == torch.bfloat16
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 and not short else "ieee"
    block_m, block_n = (128, 128) if short or precision == "tf32" else (64, 64)
    grid = (triton.cdiv(len(left), block_m), triton.cdiv(len(right), block_n))
    _kernel[grid](
        left, right, a, b, counter,
        len(left), len(right), width, least,
        capacity=capacity, same=same,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=64 if short else 32, PRECISION=precision,
        num_warps=8,
    )  # fmt: skip
    return a, b, int(counter.item())

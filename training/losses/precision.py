"""Losses are computed in float32 at least, whatever the precision of the model; some matrix products less exactly.

Products with fixed centroids are most of the cluster term's work. On a GPU they take float16 factors and sum in
float32: as exact as TF32, which has the same 11 significant bits, twice as fast, and without a global switch. What that
costs, with u = 2^-11 and unit vectors of which one is multiplied by a scale s:

- a logit is off by at most 2 u s (by u s where centroids are stored in float16), and the log-sum-exp by no more, since
  it never changes by more than its largest logit does. The errors of D components have no common sign, so about
  u s / sqrt(D) is seen;
- a softmax-weighted mean of centroids is off by at most 2 u beyond what the logits' errors do to the weights. Weights
  are multiplied by 2^15 before they are rounded, so that only those below 2^-29 of the largest lose bits.
"""

import torch
from torch import Tensor

_WEIGHT_SCALE = 2.0**15


def widen(rows: Tensor) -> Tensor:
    """float32, or float64 where the input is: gradients are checked in that."""
    return rows if rows.dtype == torch.float64 else rows.float()


def factor_dtype(rows: Tensor, *, learnable: bool, float16: bool | None) -> torch.dtype:
    """Of the factors of products with centroids; ``float16``: whether fixed ones take it, none means on a GPU."""
    narrow = rows.is_cuda if float16 is None else float16
    return torch.float16 if narrow and rows.dtype == torch.float32 and not learnable else rows.dtype


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``; of float16 factors in float32, with sums in float32."""
    if a.dtype != torch.float16:
        return a @ b
    # On a CPU the same product by other means: those of float16 numbers are exact in float32.
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def add_weighted(sums_ND: Tensor, weight_NC: Tensor, rows_CD: Tensor) -> None:
    """``sums += weight @ rows`` in place, for float32 weights from 0 to 1; their precision is that of the rows."""
    if rows_CD.dtype != torch.float16:
        torch.addmm(sums_ND, weight_NC, rows_CD, out=sums_ND)
        return
    rounded_NC = torch.empty_like(weight_NC, dtype=torch.float16)
    torch.mul(weight_NC, _WEIGHT_SCALE, out=rounded_NC)
    sums_ND.add_(product(rounded_NC, rows_CD), alpha=1 / _WEIGHT_SCALE)

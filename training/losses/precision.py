"""Losses are computed in float32 at least, whatever the precision of the model."""

import torch
from torch import Tensor


def widen(rows: Tensor) -> Tensor:
    """float32, or float64 where the input is: gradients are checked in that."""
    return rows if rows.dtype == torch.float64 else rows.float()

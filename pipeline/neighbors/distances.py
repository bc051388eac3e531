"""Verdicts: distances from explicit differences of the stored vectors, and the forest of a crowded block.

For unit vectors in float16 the sum of squared differences is exact in float64: differences are multiples of 2⁻²⁴, their
squares of 2⁻⁴⁸, and the sum stays below 4, so that 51 bits suffice. Its root, rounded to float32, is then the same on
every device, in every order of summation. For float32 the relative error is at most 1e-12 before that last rounding.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.graph.forest import Edges, concatenate, no_edges
from pipeline.graph.prim import forest_candidates

if TYPE_CHECKING:
    from torch import Tensor

# Rows that are compared at a time: few enough to stay in the cache, many enough to hide the cost of a call.
_PAIRS = 256
_BLOCK = 1024
# Float64 products of vectors of length 1.005 at most, added up over D terms: |error| ≤ (D + 4) 2⁻⁵³ · 4.04.
_UNIT = 2.0**-53 * 8


def squared_lengths(rows: "Tensor") -> "Tensor":
    """‖x‖² of each row (B, D), as (B,)."""
    import torch

    if rows.device.type == "cpu":
        # On CPUs torch's own reductions of this form take some twenty times as long.
        return torch.from_numpy(np.einsum("ij,ij->i", rows.numpy(), rows.numpy()))
    return torch.linalg.vecdot(rows, rows)


def exact_edges(rows: "Tensor", a: np.ndarray, b: np.ndarray, max_distance: float) -> Edges:
    """The pairs of row numbers (a, b) whose float32 distance is at most ``max_distance``, smaller number first."""
    import torch

    distance = np.empty(len(a), np.float32)
    first, second = (torch.from_numpy(np.ascontiguousarray(end)) for end in (a, b))
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        # By way of float32, since torch's conversion of float16 to float64 is slow; both steps are exact.
        difference = rows[first[part]].float().double()
        difference -= rows[second[part]].float()
        squared = squared_lengths(difference)
        distance[part] = squared.sqrt().float().numpy()
    near = distance <= np.float32(max_distance)
    a, b = a[near], b[near]
    return Edges(a=np.minimum(a, b).astype(np.int64), b=np.maximum(a, b).astype(np.int64), distance=distance[near])


def crowded_edges(rows: "Tensor", left: np.ndarray, right: np.ndarray, max_distance: float, *, same: bool) -> Edges:
    """All edges between the row numbers ``left`` and ``right`` that the forest of these pairs may hold.

    One float64 product over the full width replaces the verification of every pair; only pairs that can be forest edges
    are verified. ``same``: both are the same rows, and pairs within them are meant. Memory is that of a block.
    """
    if not len(left) or not len(right):
        return no_edges()
    return concatenate(
        [
            _crowded_block(rows, left[i : i + _BLOCK], right[j : j + _BLOCK], max_distance, same and i == j)
            for i in range(0, len(left), _BLOCK)
            for j in range(i if same else 0, len(right), _BLOCK)
        ]
    )


def _crowded_block(rows: "Tensor", left: np.ndarray, right: np.ndarray, max_distance: float, same: bool) -> Edges:
    import torch

    x, y = (rows[torch.from_numpy(side)].double() for side in (left, right))
    norms = [squared_lengths(side) for side in (x, y)]
    squared = (norms[0][:, None] + norms[1][None, :] - 2 * (x @ y.T)).numpy()
    error = (rows.shape[1] + 8) * _UNIT
    squared[squared > max_distance**2 * (1 + 2.0**-20) + error] = np.inf
    if same:
        np.fill_diagonal(squared, np.inf)
        i, j = forest_candidates(squared, error)
        return exact_edges(rows, left[i], left[j], max_distance)
    nodes = len(left) + len(right)
    whole = np.full((nodes, nodes), np.inf)
    whole[: len(left), len(left) :] = squared
    whole[len(left) :, : len(left)] = squared.T
    i, j = forest_candidates(whole, error)
    return exact_edges(rows, left[i], right[j - len(left)], max_distance)

"""Verdicts: distances from explicit differences of the stored vectors, and the forest of a crowded block.

For unit vectors in float16 the sum of squared differences is exact in float64: differences are multiples of 2⁻²⁴, their
squares of 2⁻⁴⁸, and the sum stays below 4, so that 51 bits suffice. Its root, rounded to float32, is then the same on
every device, in every order of summation. For float32 the relative error is at most 1e-12 before that last rounding.
"""

import dataclasses
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.graph.forest import Edges, concatenate, no_edges
from pipeline.graph.prim import forest_candidates

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.neighbors.tile import Search

# A row or column of a block with more candidates is crowded. Crowded ones are reduced together, which costs a pair
# about a thirtieth of what verifying it does.
CROWDED = 24
REDUCED_PER_VERIFIED = 30
_HELD = 65_536
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


class Taker(Protocol):
    """Takes in near pairs, by number."""

    def add(self, edges: Edges) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Where a block begins among the distinct vectors, its size, and whether its two sides are the same vectors."""

    row: int
    column: int
    rows: int
    columns: int
    same: bool


class Candidates:
    """Collects the candidates of sparse blocks until they are worth a round of verification; crowded ones it may reduce
    to what a forest can hold of them. What is near goes to ``taker``, by number."""

    def __init__(self, search: "Search", taker: Taker, *, reduces: bool):
        self._search, self._taker, self._reduces = search, taker, reduces
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = self.candidates = self.verified = 0

    def add(self, block: Block, a: np.ndarray, b: np.ndarray) -> None:
        """Take in the candidates (a, b) of a block, as positions in its two sides."""
        self.candidates += len(a)
        if self._reduces and len(a) > CROWDED:
            a, b = self._reduce(block, a, b)
        # In parts, since a crowded block that is not reduced leaves millions.
        for start in range(0, len(a), _HELD):
            part = slice(start, start + _HELD)
            self._held.append((a[part] + block.row, b[part] + block.column))
            self._count += len(a[part])
            if self._count > _HELD:
                self.flush()

    def _reduce(self, block: Block, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Settle what lies between crowded rows and crowded columns, where there is much of it; returns the rest."""
        rows, columns = np.bincount(a, minlength=block.rows), np.bincount(b, minlength=block.columns)
        if block.same:
            # Each pair stands there once, so that a row's share is also in its column.
            rows = columns = rows + columns
        crowded_rows, crowded_columns = np.flatnonzero(rows > CROWDED), np.flatnonzero(columns > CROWDED)
        inside = (rows[a] > CROWDED) & (columns[b] > CROWDED)
        if not inside.any() or inside.sum() * REDUCED_PER_VERIFIED < len(crowded_rows) * len(crowded_columns):
            return a, b
        distinct, bound = self._search.distinct, self._search.bound
        left, right = distinct[block.row + crowded_rows], distinct[block.column + crowded_columns]
        edges = crowded_edges(self._search.rows, left, right, bound.max_distance, same=block.same)
        self._taker.add(self._search.numbered(edges))
        return a[~inside], b[~inside]

    def flush(self) -> None:
        """Verify what is held."""
        if self._count:
            a, b = (self._search.distinct[np.concatenate(ends)] for ends in zip(*self._held))
            edges = exact_edges(self._search.rows, a, b, self._search.bound.max_distance)
            self._taker.add(self._search.numbered(edges))
            self.verified += self._count
        self._held, self._count = [], 0

"""A short matrix product that never loses a near pair.

Let V (D, p) have orthonormal columns, z = Vᵀx the *prefix* of a vector x, and r = √(‖x‖² − ‖z‖²) the length of the
rest. By Cauchy and Schwarz x·y ≤ z_x·z_y + r_x r_y. A pair is within distance t when ‖x‖² + ‖y‖² − 2 x·y ≤ t², so

    score(x, y) = z_x·z_y + r_x r_y + h_x + h_y,    h = t²/4 − ‖x‖²/2

is not negative for any such pair, whatever V is. (It is t²/2 less half of ‖z_x − z_y‖² + (r_x − r_y)², the lower bound
of the squared distance.) With p + 3 columns [z, r, h, 1] on the left and [z, r, 1, h] on the right, one matrix product
delivers all scores, and pairs with a score below zero are settled. V is the leading PCA basis of a sample, which makes
r small and the bound tight; a bad sample costs time, never a pair.

Rounding. z, r and h are computed in float64, where errors stay below 1e-12. They are then stored in the type of the
product, each so that the score can only grow:

- z is rounded to ẑ. With e = ‖z − ẑ‖, which is known, |z_x·z_y − ẑ_x·ẑ_y| ≤ e_x‖z_y‖ + e_y‖ẑ_x‖ ≤ M (e_x + e_y)
  for M = 1.02, since lengths are at most 1.005 (checked when the embeddings are read) and e ≤ 0.01. M e is added to h.
- r and h are rounded up. In types shorter than float32 they are stored as a sum of two numbers, and of the product
  (r₁ + r₂)(r'₁ + r'₂) only r₂ r'₂ is left out, at most 2⁻¹⁶ in size.
- What is left is the product itself: its C terms are exact or rounded once, and are added up in float32 in any order.
  The sum of their sizes is at most S = 2.5 (‖(z, r)‖² ≤ 1.02², |h| ≤ 0.6 twice), so the result errs by at most
  C·u·S, u = 2⁻²³ (2⁻²¹ on tensor cores, which cut instead of rounding). That, doubled, is the slack below zero down to
  which scores are kept. Scores that come out as bfloat16 are rounded relative to their size, which the doubling covers.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.neighbors.distances import squared_lengths

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "tfloat32", "bfloat16"]

_M = 1.02
_FLOAT64_ERROR = 1e-12
_SIZE = 2.5
_LEFT_OUT = 2.0**-16
# Few enough for the float64 copies to be reused by the allocator.
_COLUMN_ROWS = 1024
# Significant bits that survive in the inputs of the product.
_BITS: dict[str, int] = {"tfloat32": 11, "bfloat16": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """How scores are computed: ``prefix`` coordinates, in ``precision``, for pairs within ``max_distance``."""

    prefix: int
    precision: Precision
    max_distance: float
    tensor_cores: bool

    @property
    def columns(self) -> int:
        """Width of the matrices that are multiplied."""
        return self.prefix + extra_columns(self.precision)

    @property
    def height_column(self) -> int:
        """Where h, or the larger part of it, stands among the left columns."""
        return self.prefix + (1 if self.precision == "float32" else 3)

    @property
    def ones(self) -> slice:
        """The left columns that are one: partners of the other side's h."""
        return slice(self.columns - (1 if self.precision == "float32" else 2), self.columns)

    @property
    def min_score(self) -> float:
        """Scores at or above it are candidates."""
        unit = 2.0**-21 if self.tensor_cores else 2.0**-23
        left_out = 0.0 if self.precision == "float32" else _LEFT_OUT
        return -2 * (self.columns * unit * _SIZE + left_out)


def extra_columns(precision: Precision) -> int:
    """Columns besides the prefix: rest, h and one; the first two in parts where the type is short."""
    return 3 if precision == "float32" else 7


def reach(max_distance: float) -> float:
    """The largest float64 distance that, rounded to float32, is still within ``max_distance`` (and a little more)."""
    return float(np.nextafter(np.float32(max_distance), np.float32(4)))


def principal_axes(sample: "Tensor", count: int) -> "Tensor":
    """(D, count) float64, orthonormal: the leading principal axes of the (not centered) rows of ``sample``, about.

    Few of many are found by two steps of subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061), of which
    the leading quarter is good; all by an eigendecomposition. QR in float64 makes them orthonormal to 1e-15.
    """
    import torch

    rows = sample.float()
    gram = rows.T @ rows
    if 4 * count > len(gram):
        axes = torch.linalg.eigh(gram)[1].flip(1)[:, :count]
    else:
        axes = torch.randn(len(gram), count, generator=torch.Generator().manual_seed(0)).to(gram.device)
        for _ in range(2):
            axes = torch.linalg.qr(gram @ axes)[0]
        axes = axes @ torch.linalg.eigh(axes.T @ gram @ axes)[1].flip(1)
    return torch.linalg.qr(axes.double())[0]


def left_columns(rows: "Tensor", basis: "Tensor", bound: Bound) -> "Tensor":
    """(B, C) columns of rows (B, D), in bfloat16 or float32, rounded as the module's text says."""
    import torch

    wide = rows.double()
    prefix = wide @ basis[:, : bound.prefix]
    squared_norm = squared_lengths(wide)
    # The rest is larger than it need be by what the float64 subtraction may have lost.
    rest = (squared_norm - squared_lengths(prefix) + _FLOAT64_ERROR).clamp(min=0).sqrt()
    stored = _rounded(prefix, bound.precision)
    error = squared_lengths(prefix - stored.double()).sqrt() + _FLOAT64_ERROR
    height = reach(bound.max_distance) ** 2 / 4 - squared_norm / 2 + _M * error
    one = torch.ones_like(rest)
    if bound.precision == "float32":
        parts = [_up(rest, "float32"), _up(height, "float32"), one]
    else:
        rest_high, rest_low = _split_up(rest, bound.precision)
        height_high, height_low = _split_up(height, bound.precision)
        parts = [rest_high, rest_high, rest_low, height_high, height_low, one, one]
    dtype = torch.bfloat16 if bound.precision == "bfloat16" else torch.float32
    return torch.cat([stored, torch.stack(parts, dim=1)], dim=1).to(dtype)


def right_columns(left: "Tensor", bound: Bound) -> "Tensor":
    """The columns of the other side: those of ``left`` with the factors of r and h in their partners' places."""
    p = bound.prefix
    swap = [p, p + 2, p + 1] if bound.precision == "float32" else [p, p + 2, p + 1, p + 5, p + 6, p + 3, p + 4]
    return left[:, [*range(p), *swap]]


def column_batches(rows: "Tensor", wanted: np.ndarray, basis: "Tensor", bound: Bound) -> "Iterator[Tensor]":
    """Left columns (B, C) of the ``wanted`` rows, some at a time."""
    import torch

    for start in range(0, len(wanted), _COLUMN_ROWS):
        yield left_columns(rows[torch.from_numpy(np.array(wanted[start : start + _COLUMN_ROWS]))], basis, bound)


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


def _rounded(values: "Tensor", precision: Precision) -> "Tensor":
    """Nearest values of the type, as float32 or bfloat16."""
    import torch

    if precision == "bfloat16":
        return values.to(torch.bfloat16)
    if precision == "float32":
        return values.float()
    # Adding and subtracting a large multiple keeps the upper 11 bits (Dekker's splitting).
    single = values.float()
    large = single * (2.0 ** (24 - _BITS["tfloat32"]) + 1)
    return large - (large - single)


def _up(values: "Tensor", precision: Precision) -> "Tensor":
    """Values of the type that are not smaller, as float64."""
    import torch

    nearest = _rounded(values, precision).double()
    if precision == "float32":
        single = nearest.float()
        above = torch.nextafter(single, torch.full_like(single, torch.inf)).double()
    else:
        above = nearest + nearest.abs() * 2.0 ** (1 - _BITS[precision])
        above = _rounded(above, precision).double()
    return torch.where(nearest < values, above, nearest)


def _split_up(values: "Tensor", precision: Precision) -> "tuple[Tensor, Tensor]":
    """Two numbers of the type whose sum is not smaller."""
    high = _rounded(values, precision).double()
    return high, _up(values - high, precision)

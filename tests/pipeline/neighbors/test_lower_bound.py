"""The bound never loses a pair, attacked with pairs at the threshold and with every type of the product."""

import numpy as np
import pytest
import torch

from pipeline.neighbors.lower_bound import Bound, left_columns, principal_axes, right_columns
from tests.oracles import unit

PRECISIONS = ("float32", "tfloat32", "bfloat16")


def _pairs_at(
    rng: np.random.Generator, distance: float, count: int, width: int, decay: float
) -> tuple[np.ndarray, ...]:
    """Unit vectors x, y at very nearly `distance`, with a spectrum that decays."""
    scale = np.arange(1, width + 1) ** -decay
    x, other = (unit(rng.normal(size=(count, width)) * scale) for _ in range(2))
    other = unit(other - (other * x).sum(axis=1, keepdims=True) * x)
    angle = 2 * np.arcsin(distance / 2)
    return x, np.cos(angle) * x + np.sin(angle) * other


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("prefix", [1, 13, 61, 128])
@pytest.mark.parametrize("max_distance", [1e-3, 0.05, 0.447, 1.2])
def test_pairs_at_the_threshold_stay(precision: str, dtype: type, prefix: int, max_distance: float) -> None:
    rng = np.random.default_rng(prefix)
    offsets = [-1e-6, -1e-7, 0.0, 1e-7, 1e-6]
    sides = zip(*(_pairs_at(rng, max_distance + o, 200, 128, decay) for o in offsets for decay in (0.0, 0.5, 2.0)))
    x, y = (np.concatenate(side).astype(dtype) for side in sides)
    distance = np.sqrt(((x.astype(np.float64) - y.astype(np.float64)) ** 2).sum(axis=1)).astype(np.float32)
    near = distance <= np.float32(max_distance)
    assert near.any()
    assert dtype == np.float16 or not near.all()
    bound = Bound(prefix=prefix, precision=precision, max_distance=max_distance, tensor_cores=False)  # type: ignore
    basis = principal_axes(torch.from_numpy(x), prefix)
    left = left_columns(torch.from_numpy(x), basis, bound)
    right = right_columns(left_columns(torch.from_numpy(y), basis, bound), bound)
    assert left.shape == (len(x), bound.columns)
    scores = (left * right).float().sum(dim=1) if precision != "bfloat16" else (left @ right.T).diagonal()
    assert bool((scores[torch.from_numpy(near)] >= bound.min_score).all())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_columns_are_on_the_grid_of_their_type_and_never_too_small(precision: str) -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(unit(rng.normal(size=(300, 64))))
    basis = principal_axes(rows, 16)
    bound = Bound(prefix=16, precision=precision, max_distance=0.5, tensor_cores=True)  # type: ignore[arg-type]
    left = left_columns(rows, basis, bound).double()
    prefix = rows @ basis
    rest = (1 - (prefix**2).sum(dim=1)).clamp(min=0).sqrt()
    parts = 1 if precision == "float32" else 2
    stored_rest = left[:, 16] + (left[:, 18] if parts == 2 else 0)
    assert bool((stored_rest >= rest - 1e-12).all())
    assert float((stored_rest - rest).max()) < 1e-4
    bits = {"float32": 24, "tfloat32": 11, "bfloat16": 8}[precision]
    mantissa, _ = torch.frexp(left)
    assert bool((mantissa * 2**bits == (mantissa * 2**bits).round()).all())


def test_bound_is_tight_where_the_prefix_holds_everything() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(unit(rng.normal(size=(200, 32))))
    bound = Bound(prefix=32, precision="float32", max_distance=0.9, tensor_cores=False)
    left = left_columns(rows, principal_axes(rows, 32), bound)
    scores = left @ right_columns(left, bound).T
    squared = torch.cdist(rows, rows) ** 2
    # The score is half of what is left of the squared threshold.
    assert torch.allclose(scores.double(), (0.9**2 - squared) / 2, atol=1e-5)


def test_prefix_of_rank_deficient_data_is_orthonormal() -> None:
    rows = torch.zeros(10, 12)
    rows[:, 0] = 1
    basis = principal_axes(rows, 12)
    assert torch.allclose(basis.T @ basis, torch.eye(12, dtype=torch.float64), atol=1e-14)

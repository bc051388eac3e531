import numpy as np
import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.neighbors.cost import calibrate, memory_needed, require_memory
from pipeline.neighbors.lower_bound import left_columns, plain_candidates, right_columns
from tests.oracles import unit


def _calibrate(rows: np.ndarray, **changes: object) -> object:
    options = {"max_distance": 0.447, "prefix": None, "precision": "float32", "device": "cpu", "pairs": 10**9}
    return calibrate(torch.from_numpy(rows), np.arange(len(rows)), **{**options, **changes})  # type: ignore[arg-type]


def test_candidates_are_foreseen_from_the_spectrum() -> None:
    noise = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    steep, flat = unit(noise / np.arange(1, 513) ** 0.7), unit(noise)
    shares = [_calibrate(rows, prefix=29).candidate_share for rows in (steep, flat)]  # type: ignore[attr-defined]
    assert shares[0] < shares[1] / 10
    # Which length is cheapest depends on the machine; whatever it is, the scores must settle almost all pairs.
    assert _calibrate(flat).candidate_share < 0.1  # type: ignore[attr-defined]


def test_the_sample_that_the_basis_is_fitted_on_does_not_flatter_it() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(3000, 512)).astype(np.float32))
    found = _calibrate(rows[:2000], prefix=93, max_distance=0.6)
    others = left_columns(torch.from_numpy(rows[2000:]), found.basis, found.bound)  # type: ignore[attr-defined]
    least = found.bound.min_score  # type: ignore[attr-defined]
    seen = len(plain_candidates(others, right_columns(others, found.bound), least, True)[0])  # type: ignore[attr-defined]
    assert found.candidate_share == pytest.approx(seen / (1000 * 999 / 2), rel=0.2)  # type: ignore[attr-defined]


def test_prefix_can_be_set_but_not_longer_than_the_vectors() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(50, 16)))
    assert _calibrate(rows, prefix=5).bound.prefix == 5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="prefix 17 is longer than the embeddings, which are 16 wide"):
        _calibrate(rows, prefix=17)


def test_memory_grows_with_rows_and_workers_and_not_with_pairs() -> None:
    def needed(rows: int, workers: int = 1) -> int:
        return memory_needed(rows, tile_rows=16_384, workers=workers, device="cpu")

    assert needed(10**6) < 2 * 10**9
    assert needed(2 * 10**8) - needed(10**8) == needed(3 * 10**8) - needed(2 * 10**8)
    assert needed(10**6, workers=8) > needed(10**6)
    with pytest.raises(ConfigError, match=r"400,000,000 rows needs up to 1\d\d\.\d GB of memory, memory_limit is 64GB"):
        require_memory(needed(400_000_000), 64 * 10**9, rows=400_000_000)

"""Exactness and speed of the near-duplicate forest against a float64 brute force (scipy) in the same run."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from pipeline.balance import semantic_balance
from pipeline.neighbours import near_duplicate_forest

_ROWS, _WIDTH, _THRESHOLD = 6000, 256, 0.3


def measure() -> list[dict[str, Any]]:
    """Images kept by both, and seconds of both, for three kinds of data."""
    return [_compare(name, make(np.random.default_rng(0))) for name, make in _DATA.items()]


def _compare(name: str, matrix: np.ndarray) -> dict[str, Any]:
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        embeddings, forest = Path(folder) / "e.parquet", Path(folder) / "f.parquet"
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), _WIDTH)
        pq.write_table(pa.table({"sample_id": np.arange(_ROWS), "image_embedding": vectors}), embeddings)
        started = time.perf_counter()
        near_duplicate_forest(embeddings, forest, max_distance=2 * _THRESHOLD)
        report = semantic_balance(embeddings, forest, Path(folder) / "out", threshold=_THRESHOLD)
        ours = time.perf_counter() - started
    started = time.perf_counter()
    distance = squareform(pdist(matrix.astype(np.float64)).astype(np.float32))
    expected = connected_components(distance <= np.float32(_THRESHOLD))[0]
    brute = time.perf_counter() - started
    return {
        "data": name,
        "rows": _ROWS,
        "kept": report.kept,
        "kept_by_brute_force": int(expected),
        "seconds": round(ours, 2),
        "seconds_of_brute_force": round(brute, 2),
        "ratio": round(brute / ours, 1),
    }


def _isotropic(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(_ROWS, _WIDTH))


def _groups(rng: np.random.Generator) -> np.ndarray:
    centres = rng.normal(size=(_ROWS // 4, _WIDTH))
    return np.repeat(centres, 4, axis=0) + 0.1 * rng.normal(size=(_ROWS, _WIDTH))


def _decaying_spectrum(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(_ROWS, _WIDTH)) / np.arange(1, _WIDTH + 1)


_DATA = {"isotropic": _isotropic, "groups of four": _groups, "1/i spectrum": _decaying_spectrum}

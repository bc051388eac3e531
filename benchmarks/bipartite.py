"""All near pairs between two sets, against the forest's search over as many pairs and faiss's flat range search.

All take turns. Ours is timed with everything: reading Parquet, checks, bound, scores, verification, output in order.
faiss is timed alone: its rows lie in memory as float32. It runs in a process of its own, since its OpenMP runtime and
torch's have crashed together.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import near_copies, pieces, write
from pipeline.core.processes import run_alone
from pipeline.neighbors import near_duplicate_forest, near_pairs_between
from pipeline.vectors.read import read_vectors

_DISTANCE, _WIDTH, _ROUNDS = 0.447, 512, 3
SPECTRA = ("1/i", "isotropic")


def measure(rows: int = 20_000, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """One row per spectrum: ``rows`` by ``rows`` vectors, a tenth of the second set near copies of the first."""
    return [_compare(spectrum, rows, rounds) for spectrum in SPECTRA]


def _compare(spectrum: str, rows: int, rounds: int) -> dict[str, Any]:
    # A forest of so many looks at as many pairs.
    together = int((2 * rows * rows) ** 0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = np.concatenate(list(pieces(rows, _WIDTH, spectrum, duplicates=0.3)))
        second = np.concatenate(list(_others(first, spectrum)))
        a, b = (write(folder / f"{side}.parquet", iter([part])) for side, part in (("a", first), ("b", second)))
        both = write(folder / "both.parquet", iter([np.concatenate([first, second])[:together]]))
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds + 1):
            pairs = near_pairs_between(a, b, folder / "pairs", max_distance=_DISTANCE)
            seconds.setdefault("", []).append(pairs.seconds)
            forest = near_duplicate_forest(both, folder / "forest", max_distance=_DISTANCE)
            seconds.setdefault("_forest", []).append(forest.seconds)
            spent, found = run_alone(_faiss, a, b)
            seconds.setdefault("_faiss", []).append(spent)
    # The first round warms up.
    best = {what: min(spent[1:]) for what, spent in seconds.items()}
    return {
        "data": f"spectrum {spectrum}",
        "rows": f"{rows} x {rows}",
        "width": _WIDTH,
        "prefix": pairs.prefix,
        "precision": pairs.precision,
        "candidates": pairs.candidates,
        "near": pairs.near,
        "near_by_faiss": found,
        **{f"seconds{what}": round(spent, 2) for what, spent in best.items()},
        "million_pairs_per_second": round(pairs.pairs / best[""] / 1e6),
        "million_pairs_per_second_forest": round(forest.pairs / best["_forest"] / 1e6),
        "speed_up_over_faiss": round(best["_faiss"] / best[""], 1),
    }


def _others(first: np.ndarray, spectrum: str) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    copies = len(first) // 10
    yield from pieces(len(first) - copies, _WIDTH, spectrum, duplicates=0.3, seed=1)
    yield near_copies(rng, first[rng.permutation(len(first))[:copies]].astype(np.float32), 0.3).astype(np.float16)


def _faiss(a: Path, b: Path) -> tuple[float, int]:
    """Seconds of the range search, and how many pairs it finds, by float32 products: at the bound some may differ."""
    import faiss

    queries, rows = read_vectors(a).matrix, read_vectors(b).matrix
    started = time.perf_counter()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    limits, _, _ = index.range_search(queries, _DISTANCE**2)
    return time.perf_counter() - started, int(limits[-1])

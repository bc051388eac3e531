"""The exact pair search against a blocked full-width product, and against k-means cells (SemDeDup's way), in one run.

Ours is timed with everything: reading Parquet, checks, basis, scores, verification, forest, output. The full-width
product is timed alone: its rows lie in memory as float32, and what it finds is verified and compared off the clock.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import pieces, write
from pipeline.graph.forest import Edges, ForestBuilder, components, minimum_spanning_forest
from pipeline.neighbors.distances import exact_edges
from pipeline.neighbors.search import near_duplicate_forest
from pipeline.vectors.read import read_vectors

_DISTANCE = 0.447
_WIDTH = 1280
_BLOCK = 2048
# All take turns; of each the best counts.
_ROUNDS = 2
# Rows of a cell: SemDeDup's own (LAION-440M in 50,000 cells), and fewer, which costs less and finds less.
_CELL_ROWS = (8800, 1000)
CASES = (
    ("1/i", 40_000),
    ("1/i", 100_000),
    ("1/i^2", 40_000),
    ("isotropic", 40_000),
)
DEMO = Path("data/demo/teacher_embeddings")


def measure() -> list[dict[str, Any]]:
    """One row per data set; the demo teacher's embeddings are among them where the demo has been run."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for spectrum, count in CASES:
            path = write(Path(folder) / "e.parquet", pieces(count, _WIDTH, spectrum, duplicates=0.3))
            rows.append(_compare(f"spectrum {spectrum}", path, Path(folder)))
        if DEMO.is_dir():
            rows.append(_compare("demo teacher", DEMO, Path(folder), id_column="image_id"))
        return rows


def _compare(name: str, embeddings: Path, folder: Path, id_column: str = "sample_id") -> dict[str, Any]:
    near_duplicate_forest(embeddings, folder / "warm.parquet", max_distance=_DISTANCE, id_column=id_column)
    vectors = read_vectors(embeddings, id_column=id_column)
    matrix = torch.from_numpy(vectors.matrix)
    seconds: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        report = near_duplicate_forest(
            embeddings, folder / "forest.parquet", max_distance=_DISTANCE, id_column=id_column
        )
        seconds.setdefault("", []).append(time.perf_counter() - started)
        full, found = _full_width(matrix)
        seconds.setdefault("_full_width", []).append(full)
        cells = {size: _in_cells(matrix, size) for size in _CELL_ROWS}
        for size, (spent, _forest) in cells.items():
            seconds.setdefault(f"_in_cells_of_{size}", []).append(spent)
    forest = minimum_spanning_forest(len(matrix), found)
    best = {what: min(spent) for what, spent in seconds.items()}
    return {
        "data": name,
        "rows": len(matrix),
        "width": matrix.shape[1],
        "prefix": report.prefix,
        "precision": report.precision,
        "candidates": report.candidates,
        "edges": report.edges,
        "equal_to_full_width": _equal(forest, vectors.ids, folder / "forest.parquet"),
        **{f"seconds{what}": round(spent, 2) for what, spent in best.items()},
        **{f"speed_up_over{what}": round(spent / best[""], 1) for what, spent in best.items() if what},
        **{
            f"removals_found_in_cells_of_{size}": round(len(cell_forest) / max(len(forest), 1), 3)
            for size, (_spent, cell_forest) in cells.items()
        },
    }


def _full_width(matrix: torch.Tensor) -> tuple[float, Edges]:
    """Seconds of product and scan over the half matrix, and the forest of what is near, made off the clock."""
    seconds, builder = 0.0, ForestBuilder(len(matrix))
    least = 1 - (_DISTANCE * 1.001) ** 2 / 2 - 2e-3
    for i in range(0, len(matrix), _BLOCK):
        for j in range(i, len(matrix), _BLOCK):
            started = time.perf_counter()
            similarity = matrix[i : i + _BLOCK] @ matrix[j : j + _BLOCK].T
            rows = torch.nonzero(similarity.amax(dim=1) >= least)[:, 0]
            a, b = torch.nonzero(similarity[rows] >= least, as_tuple=True)
            seconds += time.perf_counter() - started
            a, b = rows[a] + i, b + j
            upper = a < b
            builder.add(exact_edges(matrix, a[upper].numpy(), b[upper].numpy(), _DISTANCE))
    return seconds, builder.forest()


def _in_cells(matrix: torch.Tensor, size: int) -> tuple[float, Edges]:
    """k-means into cells of about ``size`` rows, then all pairs within each (SemDeDup, arXiv 2303.09540)."""
    import faiss

    rows = matrix.numpy()
    started = time.perf_counter()
    kmeans = faiss.Kmeans(rows.shape[1], max(len(rows) // size, 2), niter=20, seed=0, spherical=True)
    kmeans.train(rows)
    cell = kmeans.index.search(rows, 1)[1][:, 0]
    builder = ForestBuilder(len(rows))
    order = np.argsort(cell, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        part = matrix[torch.from_numpy(members)]
        a, b = torch.nonzero(torch.triu(part @ part.T, 1) >= 1 - _DISTANCE**2 / 2 - 1e-5, as_tuple=True)
        ends = members[a.numpy()], members[b.numpy()]
        builder.add(exact_edges(matrix, *ends, _DISTANCE))
    return time.perf_counter() - started, builder.forest()


def _equal(forest: Edges, ids: np.ndarray, path: Path) -> bool:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    a, b = (np.searchsorted(ids, table[end].to_numpy()) for end in ("id_a", "id_b"))
    ours = Edges(a=a, b=b, distance=table["distance"].to_numpy())
    return np.array_equal(components(len(ids), forest), components(len(ids), ours)) and np.array_equal(
        np.sort(forest.distance), np.sort(ours.distance)
    )

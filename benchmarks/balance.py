"""The balance at ten million edges: sweep, threshold for a removal, groups, centers and tables, in a 2 GB DuckDB.

Input: 12,000,000 embeddings of 16 float16 each, in twelve files, and a near-duplicate forest of 10,000,000 edges over
them: groups whose sizes fall off as a power law, the members of each joined by edges of random distance up to 0.6, and
one of 100,000 whose edges are all short. Time covers everything from those files to the tables ``balance_groups``,
``removed_pairs`` and ``blocked_pairs`` and the statistics, writing them included; it does not cover the search for
pairs, nor captions and image metadata, which these files do not have.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.semantic_balance import semantic_balance
from pipeline.core import schema
from pipeline.core.query import QueryConfig

_ROWS, _EDGES, _FILES, _WIDTH = 12_000_000, 10_000_000, 12, 16
_MAX_DISTANCE, _LARGEST_GROUP, _REMOVAL = 0.6, 100_000, 0.437
_MEMORY_LIMITS = ("2GB", "500MB")


def measure() -> list[dict[str, Any]]:
    """For each memory limit of DuckDB: seconds, the peak resident memory of the whole process, and the most that DuckDB
    spilled at a time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_input(folder)
        return [_measure(folder, limit) for limit in _MEMORY_LIMITS]


def _measure(folder: Path, memory_limit: str) -> dict[str, Any]:
    """In a process of its own, so that its peak memory is not that of making the input."""
    watch = _Spill(folder / "out")
    command = [sys.executable, "-m", "benchmarks.balance", str(folder), memory_limit]
    with watch:
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(folder / "out")
    return {
        "embeddings": _ROWS,
        "width": _WIDTH,
        "edges": _EDGES,
        "duckdb_memory_limit": memory_limit,
        **json.loads(result.stdout.splitlines()[-1]),
        "spilled_mb": round(watch.most / 1e6),
    }


def _write_input(folder: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(_ROWS).astype(np.int64) * 1_000_003 - 2**42
    # Group sizes of a power law, as many as it takes for rows - groups = edges.
    sizes = np.minimum((rng.pareto(1.1, _ROWS) + 1).astype(np.int64), _LARGEST_GROUP)
    sizes[0] = _LARGEST_GROUP
    groups = int(np.searchsorted(np.cumsum(sizes - 1), _EDGES))
    sizes = np.append(sizes[:groups], _EDGES - (sizes[:groups] - 1).sum() + 1)
    _write_forest(folder / "forest.parquet", ids, sizes, rng)
    (folder / "embeddings").mkdir()
    sizes = np.append(sizes, np.ones(_ROWS - sizes.sum(), np.int64))
    group = np.repeat(np.arange(len(sizes)), sizes)
    rows = rng.permutation(_ROWS).reshape(_FILES, -1)
    for number, part in enumerate(rows):
        matrix = _directions(group[part]) + 0.02 * rng.standard_normal((len(part), _WIDTH), np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float16).reshape(-1)), _WIDTH)
        table = pa.table({"sample_id": ids[part], "image_embedding": vectors})
        pq.write_table(
            table, folder / "embeddings" / f"{number:05d}.parquet", row_group_size=schema.EMBEDDING_ROW_GROUP
        )


def _write_forest(path: Path, ids: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> None:
    """Each member of a group but the first is joined to one before it."""
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    node = np.arange(len(first))
    node, first = node[node > first], first[node > first]
    before = first + (rng.random(len(node)) * (node - first)).astype(np.int64)
    distance = (rng.random(len(node), np.float32) * np.float32(_MAX_DISTANCE)).astype(np.float32)
    distance[node < sizes[0]] /= 10
    a, b = np.minimum(ids[node], ids[before]), np.maximum(ids[node], ids[before])
    table_schema = schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(_MAX_DISTANCE)})
    pq.write_table(pa.Table.from_arrays([a, b, distance], schema=table_schema), path, compression="zstd")


def _directions(group: np.ndarray) -> np.ndarray:
    """A vector for each group that is a function of its number alone."""
    angles = np.outer(group.astype(np.float64), np.sqrt(np.arange(2, 2 + _WIDTH)))
    return np.sin(angles).astype(np.float32)


class _Spill:
    """The most bytes that lay in DuckDB's temporary files below a folder, looked at ten times a second."""

    def __init__(self, folder: Path):
        self.most, self._folder, self._stop = 0, folder, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Spill":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            total = 0
            for path in self._folder.glob(".balance-*/duckdb-*/**/*"):
                try:
                    total += path.stat().st_size if path.is_file() else 0
                except FileNotFoundError:
                    continue
            self.most = max(self.most, total)


def _run(folder: Path, memory_limit: str) -> dict[str, Any]:
    """One balance, timed, in this process."""
    started = time.perf_counter()
    report = semantic_balance(
        folder / "embeddings",
        folder / "forest.parquet",
        folder / "out",
        target_removal=_REMOVAL,
        query_config=QueryConfig(memory_limit=memory_limit),
    )
    seconds = time.perf_counter() - started
    return {
        "thresholds": len(report.sweep),
        "threshold": round(report.threshold, 4),
        "removed": report.removed,
        "groups": report.groups,
        "largest_group": report.largest_group,
        "seconds": round(seconds, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    print(json.dumps(_run(Path(sys.argv[1]), sys.argv[2])))

"""Peak memory and time of searches in a process of their own: a million rows, and groups that grow."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import near_copies, pieces, unit, write

_SEARCH = """
import json, re, sys
from pathlib import Path
from pipeline.neighbors import near_duplicate_forest
import dataclasses
report = near_duplicate_forest(Path(sys.argv[1]), Path(sys.argv[2]), max_distance=0.447)
# Not ru_maxrss, which counts what the parent had when it started this process.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({**dataclasses.asdict(report), "peak_rss_gb": round(peak / 1e9, 2)}))
"""


def search(embeddings: Path, folder: Path) -> dict[str, Any]:
    """The report of a search in a process of its own, with its peak resident memory."""
    command = [sys.executable, "-c", _SEARCH, str(embeddings), str(folder / "forest.parquet")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def planted_group(rows: int, width: int, group: int) -> Iterator[np.ndarray]:
    """A 1/i spectrum in which ``group`` rows, spread over all, are copies of one row at about 0.1."""
    center = unit(np.random.default_rng(1).standard_normal((1, width), dtype=np.float32))
    start = 0
    for number, piece in enumerate(pieces(rows, width, "1/i", duplicates=0.0)):
        rng = np.random.default_rng([2, number])
        mine = group * (start + len(piece)) // rows - group * start // rows
        piece[rng.permutation(len(piece))[:mine]] = near_copies(rng, np.repeat(center, mine, axis=0), 0.1)
        start += len(piece)
        yield piece


def measure() -> list[dict[str, Any]]:
    """A planted group of 100 to 20,000 among 100,000 rows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for group in (100, 1_000, 5_000, 20_000):
            path = write(Path(folder) / "e.parquet", planted_group(100_000, 1280, group))
            found = search(path, Path(folder))
            names = ("samples", "candidates", "edges", "seconds", "peak_rss_gb")
            rows.append({"group": group, **{name: found[name] for name in names}})
    smallest = rows[0]["peak_rss_gb"]
    return [{**row, "peak_over_smallest": round(row["peak_rss_gb"] / smallest, 2)} for row in rows]

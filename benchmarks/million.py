"""One million rows of width 1280 in float16, from Parquet to forest, in a process of its own."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data import pieces, write
from benchmarks.memory import search

_ROWS = 1_000_000


def measure() -> list[dict[str, Any]]:
    """Time, peak memory and what was found, for a 1/i spectrum with 30 % near-copies."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "e.parquet", pieces(_ROWS, 1280, "1/i", duplicates=0.3))
        return [search(path, Path(folder))]

"""How embeddings should lie in Parquet: size, and time to write and read, of one change at a time from the layout in
use.

Rows are an id and two float16 unit vectors of width 1280, where tables of embeddings have one. Reads are of files in
the page cache, by pyarrow into numpy and by DuckDB as a cosine of the two vectors of a row. All layouts take turns in
one process. Times are CPU seconds, which other work on the machine hardly changes: medians, as multiples of the layout
in use.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import pieces

_ROWS, _WIDTH, _ROUNDS = 16_384, 1280, 3
_USED: dict[str, Any] = {"compression": "zstd", "row_group_size": 8192, "use_dictionary": False, "list": "fixed"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "in use": {},
    "not compressed": {"compression": "none"},
    "lz4": {"compression": "lz4"},
    "snappy": {"compression": "snappy"},
    "dictionary": {"use_dictionary": ["image_embedding.list.element", "text_embedding.list.element", "sample_id"]},
    "lists of any size": {"list": "any"},
    "nullable": {"list": "nullable"},
    "binary": {"list": "binary"},
    "row groups of 1,024": {"row_group_size": 1024},
    "row groups of 4,096": {"row_group_size": 4096},
    "row groups of 16,384": {"row_group_size": 16_384},
    "statistics": {"write_statistics": True},
    "pages of 64 KiB": {"data_page_size": 64 << 10},
}


def measure(rows: int = _ROWS, width: int = _WIDTH, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    image, text = (_vectors(rows, width, seed) for seed in (0, 1))
    ids = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, rows)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET enable_progress_bar = false")
        paths = {name: Path(folder) / f"{number}.parquet" for number, name in enumerate(LAYOUTS)}
        for _ in range(rounds):
            for name, change in LAYOUTS.items():
                layout = _USED | change
                for what, work in _ways(
                    connection, paths[name], layout, _table(ids, image, text, layout["list"])
                ).items():
                    started = time.process_time()
                    work()
                    times[name].setdefault(what, []).append(time.process_time() - started)
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    return [
        {
            "layout": name,
            "bytes_per_pair": round(sizes[name] / rows),
            **{what: _ratio(found, times["in use"].get(what, [])) for what, found in times[name].items()},
        }
        for name in LAYOUTS
    ]


def _ratio(mine: list[float], base: list[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(mine, base)), 2)


def _vectors(rows: int, width: int, seed: int) -> np.ndarray:
    return np.concatenate(list(pieces(rows, width, "1/i", duplicates=0.0, seed=seed)))


def _ways(
    connection: duckdb.DuckDBPyConnection, path: Path, layout: dict[str, Any], table: pa.Table
) -> dict[str, Callable[[], object]]:
    options = {"write_statistics": ["sample_id"]} | {k: v for k, v in layout.items() if k != "list"}
    size = f"FLOAT[{_width(table)}]"
    cosine = f"SELECT sum(array_inner_product(image_embedding::{size}, text_embedding::{size})) FROM '{path}'"
    ways: dict[str, Callable[[], object]] = {
        "write": lambda: pq.write_table(table, path, **options),
        "pyarrow": lambda: _read(path, layout["list"]),
        "duckdb_ids": lambda: connection.execute(f"SELECT sum(sample_id % 7) FROM '{path}'").fetchall(),
    }
    # DuckDB takes binary for a BLOB, of which it computes nothing.
    return ways if layout["list"] == "binary" else ways | {"duckdb": lambda: connection.execute(cosine).fetchall()}


def _width(table: pa.Table) -> int:
    return len(table["image_embedding"][0]) if not pa.types.is_fixed_size_binary(table.schema.field(1).type) else 0


def _read(path: Path, form: str) -> float:
    total = 0.0
    parquet = pq.ParquetFile(path, pre_buffer=False)
    for batch in parquet.iter_batches(8192, columns=["sample_id", "image_embedding"], use_threads=False):
        vectors = batch.column(1)
        if form == "binary":
            matrix = np.frombuffer(vectors.buffers()[1], np.float16)
        else:
            matrix = vectors.flatten().to_numpy(zero_copy_only=False)
        total += float(matrix[0])
    return total


def _table(ids: np.ndarray, image: np.ndarray, text: np.ndarray, form: str) -> pa.Table:
    columns = {"sample_id": pa.array(ids)}
    for name, matrix in (("image_embedding", image), ("text_embedding", text)):
        values, width = pa.array(matrix.reshape(-1)), matrix.shape[1]
        item = pa.field("item", pa.float16(), nullable=form == "nullable")
        if form == "any":
            offsets = pa.array(np.arange(0, len(values) + 1, width, dtype=np.int32))
            columns[name] = pa.ListArray.from_arrays(offsets, values, type=pa.list_(item))
        elif form == "binary":
            buffers = [None, pa.py_buffer(np.ascontiguousarray(matrix))]
            columns[name] = pa.Array.from_buffers(pa.binary(2 * width), len(matrix), buffers)
        else:
            columns[name] = pa.FixedSizeListArray.from_arrays(values, type=pa.list_(item, width))
    table_schema = pa.schema(
        [pa.field(name, array.type, nullable=form == "nullable") for name, array in columns.items()]
    )
    return pa.Table.from_arrays(list(columns.values()), schema=table_schema)

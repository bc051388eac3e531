"""Who of one set is near whom of another: all pairs between two sets of embeddings within a distance, exactly.

The tiles are those of the forest's search (:mod:`pipeline.neighbors.search`), with rows of the one set and columns of
the other. Nothing is reduced: what is near is written tile by tile, and put into order at the end.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.compute.map import ComputeConfig
from pipeline.core import parquet, query
from pipeline.core.devices import Wanted
from pipeline.core.query import QueryConfig
from pipeline.core.settings import parse_size
from pipeline.neighbors.cost import SORT_BYTES, memory_needed
from pipeline.neighbors.lower_bound import Precision
from pipeline.neighbors.pack import Side
from pipeline.neighbors.search import pairs_schema, require_distance, search_tiles
from pipeline.neighbors.tile import TileResult
from pipeline.vectors.read import as_paths

# Memory that a thread of the sort should have.
_THREAD_BYTES = 1 << 27


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsReport:
    """``pairs`` were looked at, ``candidates`` of them left by the prefix bound and compared in full; ``near`` of those
    are within the distance. ``prefix`` and ``precision`` are none where a side has no row."""

    samples_a: int
    samples_b: int
    pairs: int
    candidates: int
    near: int
    max_distance: float
    prefix: int | None
    precision: str | None
    tiles: int
    tiles_computed: int
    seconds: float


def near_pairs_between(
    a: Path | Sequence[Path],
    b: Path | Sequence[Path],
    output: Path,
    *,
    max_distance: float,
    column_a: str = "image_embedding",
    column_b: str = "image_embedding",
    id_column_a: str = "sample_id",
    id_column_b: str = "sample_id",
    prefix: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: Wanted = "auto",
    tile_rows: int | None = None,
    memory_limit: int | str = "4GB",
    compute: ComputeConfig | None = None,
    work: Path | None = None,
) -> PairsReport:
    """Write all near pairs ``id_a, id_b, distance`` of a vector of ``a`` and one of ``b``, ordered by ``(id_a, id_b)``.

    They are exactly those whose distance, from float64 differences of the stored vectors rounded to float32, is at most
    ``max_distance``; a float16 vector and its float32 copy are at distance zero. The two sets may use the same ids, of
    which nothing is concluded: with ``a`` as ``b`` each image is a pair with itself. There may be as many pairs as both
    numbers of rows multiplied: they are streamed to disk, and sorted within the memory limit.

    Args:
        a: Parquet files, or a folder of them, with 64-bit ids and unit vectors; files without a row are none's pair.
        b: the same, vectors of the same width.
        output: the file to write.
        max_distance: Euclidean, in (0, 2).
        column_a: the vectors' column in ``a``.
        column_b: the vectors' column in ``b``.
        id_column_a: the ids' column in ``a``.
        id_column_b: the ids' column in ``b``.
        prefix: coordinates of the bound; none means the cheapest by trial.
        precision: of the products that find candidates.
        device: ``auto`` takes CUDA where the process that searches a tile finds one.
        tile_rows: none means 16,384 for a CPU, 524,288 for a GPU.
        memory_limit: bytes, or a size such as ``4GB``.
        compute: on which processes or machines; none means this process.
        work: folder for intermediate files (as large as the embeddings and twice the pairs), kept while the search is
            unfinished, so that the same call goes on where it was; none means a hidden one beside ``output``.

    Returns:
        Counts and seconds.

    Raises:
        ConfigError: for impossible settings or a memory limit that will not do.
        EmbeddingError: for embeddings that cannot be compared.
    """
    started = time.monotonic()
    require_distance(max_distance)
    work = work or output.with_name(f".{output.name}.work")
    sides = [
        Side(paths=tuple(as_paths(a)), column=column_a, id_column=id_column_a),
        Side(paths=tuple(as_paths(b)), column=column_b, id_column=id_column_b),
    ]
    rows = [sum(file.rows for file in side.inspect()) for side in sides]
    prepared, results, computed = None, list[TileResult](), 0
    # Nothing is near what is not there: an evaluation without an image, for example.
    if all(rows):
        prepared, results, computed = search_tiles(
            sides,
            work,
            label="near_pairs",
            max_distance=max_distance,
            prefix=prefix,
            precision=precision,
            device=device,
            tile_rows=tile_rows,
            memory_limit=memory_limit,
            compute=compute or ComputeConfig(),
        )
    # Here the search's memory is spent, whoever has searched: what this process has held it hardly gives back.
    spent = memory_needed(sum(rows), tile_rows=0, workers=1, device="cpu", all_pairs=True) - SORT_BYTES
    left = parse_size(memory_limit, what="memory_limit") - spent
    near = _write_in_order(results, output, max_distance=max_distance, memory=left, scratch=work)
    shutil.rmtree(work, ignore_errors=True)
    return PairsReport(
        samples_a=rows[0],
        samples_b=rows[1],
        pairs=sum(result.pairs for result in results),
        candidates=sum(result.candidates for result in results),
        near=near,
        max_distance=max_distance,
        prefix=prepared.prefix if prepared else None,
        precision=prepared.precision if prepared else None,
        tiles=len(results),
        tiles_computed=computed,
        seconds=round(time.monotonic() - started, 3),
    )


def _write_in_order(
    results: Sequence[TileResult], output: Path, *, max_distance: float, memory: int, scratch: Path
) -> int:
    """One file of the pairs of all tiles, whole or not at all, and how many they are."""
    found = [result.path.with_suffix(".parquet") for result in results]
    found = [path for path in found if path.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    table_schema = pairs_schema(max_distance)
    if found:
        threads = max(min(os.cpu_count() or 1, memory // _THREAD_BYTES), 1)
        config = QueryConfig.model_validate({"memory_limit": memory, "threads": threads})
        with query.connect(config, scratch=scratch) as connection:
            statement = query.sql("pipeline.neighbors", "pairs_in_order")
            near = query.write(connection, statement, {"tiles": query.files(found)}, temporary, table_schema)
    else:
        near = 0
        parquet.write_table(table_schema.empty_table(), temporary, compression="zstd")
    temporary.replace(output)
    return near

"""Who is near: all pairs of embeddings within a distance, exactly, reduced to their minimum spanning forest.

Embeddings are packed once (:mod:`pipeline.neighbors.pack`), get score columns (:mod:`pipeline.neighbors.lower_bound`),
and their distance matrix is worked through in tiles (:mod:`pipeline.neighbors.tile`), here, in local processes or on
Ray. Every finished tile is a file, so that a search that was cut off goes on with the others. The forests of the tiles
are merged in a tree.
"""

import dataclasses
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.compute.devices import expected
from pipeline.compute.map import ComputeConfig
from pipeline.core import parquet, schema
from pipeline.core.devices import Wanted
from pipeline.core.errors import ConfigError
from pipeline.core.settings import parse_size
from pipeline.graph.forest import Edges, ForestBuilder
from pipeline.neighbors.cost import require_memory
from pipeline.neighbors.lower_bound import Precision
from pipeline.neighbors.tile import TILE_ROWS, let_go, read_edges
from pipeline.neighbors.workspace import BaseForest, SearchSettings, merged, prepare, run_tiles
from pipeline.vectors.read import as_paths, inspect

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForestReport:
    """``pairs`` of ``distinct`` vectors were looked at, ``candidates`` of them left by the prefix bound; ``edges`` make
    up the forest of all ``samples``."""

    samples: int
    distinct: int
    pairs: int
    candidates: int
    edges: int
    max_distance: float
    prefix: int
    precision: str
    tiles: int
    tiles_computed: int
    seconds: float


def near_duplicate_forest(
    embeddings: Path | Sequence[Path],
    output: Path,
    *,
    max_distance: float,
    column: str = "image_embedding",
    id_column: str = "sample_id",
    prefix: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: Wanted = "auto",
    tile_rows: int | None = None,
    memory_limit: int | str = "4GB",
    compute: ComputeConfig | None = None,
    work: Path | None = None,
    base: BaseForest | None = None,
) -> ForestReport:
    """Write the near-duplicate forest (``id_a < id_b, distance``) of a column of embeddings as one Parquet file.

    The forest is exact: it is that of all pairs whose distance, from float64 differences of the stored vectors rounded
    to float32, is at most ``max_distance``; it depends on nothing else, neither order nor division of the input, tiles,
    prefix, device nor engine.

    Args:
        embeddings: Parquet files, or a folder of them, with 64-bit ids and unit vectors.
        output: the file to write.
        max_distance: Euclidean, in (0, 2).
        column: the vectors' column.
        id_column: the ids' column, integers of which none stands twice.
        prefix: coordinates of the bound; none means the cheapest by trial.
        precision: of the products that find candidates.
        device: ``auto`` takes CUDA where the process that searches a tile finds one.
        tile_rows: none means 16,384 for a CPU, 524,288 for a GPU.
        memory_limit: bytes, or a size such as ``4GB``.
        compute: on which processes or machines; none means this process.
        work: folder for intermediate files (as large as the embeddings), kept while the search is unfinished, so that
            the same call goes on where it was; none means a hidden one beside ``output``.
        base: a forest of some of the files, made before; only pairs with a vector of the other files are searched.

    Returns:
        Counts, the plan and seconds.

    Raises:
        ConfigError: for impossible settings or a memory limit that will not do.
        EmbeddingError: for embeddings that cannot be searched.
    """
    started = time.monotonic()
    if not 0 < max_distance < 2:
        raise ConfigError(f"max_distance must lie in (0, 2), the distances of unit vectors; got {max_distance}")
    compute = compute or ComputeConfig()
    work = work or output.with_name(f".{output.name}.work")
    likely = expected(device, compute)
    settings = SearchSettings(
        paths=tuple(as_paths(embeddings)),
        column=column,
        id_column=id_column,
        max_distance=max_distance,
        prefix=prefix,
        precision=precision,
        device=likely,
        tile_rows=tile_rows or TILE_ROWS[likely],
        workers=1 if compute.engine == "inline" else compute.workers,
        base=base,
    )
    rows = sum(file.rows for file in inspect(settings.paths, column=column, id_column=id_column))
    require_memory(settings.peak_memory(rows), parse_size(memory_limit, what="memory_limit"), rows=rows)
    search = prepare(settings, work)
    log.info("near_duplicates: %s", search.plan)
    try:
        # Where no GPU is expected, none is taken: a CPU's tiles are small for it.
        results, computed = run_tiles(
            search, compute, device=device if likely == "cuda" else "cpu", workers=settings.workers
        )
    finally:
        # Whoever runs next, a training for example, finds the device's memory free.
        let_go()
    builder = ForestBuilder(search.rows)
    for path in [work / "repeats.npz", *merged(search, results, compute)]:
        builder.add(read_edges(path))
    if base is not None:
        builder.add(base.edges(search.ids))
    edges = _write(search.ids, builder.forest(), output, max_distance)
    shutil.rmtree(work, ignore_errors=True)
    return ForestReport(
        samples=search.rows,
        distinct=search.distinct,
        pairs=sum(result.pairs for result in results),
        candidates=sum(result.candidates for result in results),
        edges=edges,
        max_distance=max_distance,
        prefix=search.prefix,
        precision=search.precision,
        tiles=len(results),
        tiles_computed=computed,
        seconds=round(time.monotonic() - started, 3),
    )


def _write(ids: np.ndarray, forest: Edges, output: Path, max_distance: float) -> int:
    # The largest threshold that may be asked of this file.
    table_schema = schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(max_distance)})
    table = pa.Table.from_arrays([ids[forest.a], ids[forest.b], forest.distance], schema=table_schema)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    parquet.write_table(table, temporary, compression="zstd")
    temporary.replace(output)
    return len(forest)

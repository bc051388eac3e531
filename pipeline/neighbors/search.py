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
from pipeline.neighbors.pack import Side
from pipeline.neighbors.tile import TILE_ROWS, TileResult, let_go, read_edges
from pipeline.neighbors.workspace import BaseForest, PreparedSearch, SearchSettings, merged, prepare, run_tiles
from pipeline.vectors.read import as_paths

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
    require_distance(max_distance)
    compute = compute or ComputeConfig()
    work = work or output.with_name(f".{output.name}.work")
    search, results, computed = search_tiles(
        [Side(paths=tuple(as_paths(embeddings)), column=column, id_column=id_column)],
        work,
        label="near_duplicates",
        max_distance=max_distance,
        prefix=prefix,
        precision=precision,
        device=device,
        tile_rows=tile_rows,
        memory_limit=memory_limit,
        compute=compute,
        base=base,
    )
    builder = ForestBuilder(search.rows)
    for path in [work / "repeats.npz", *merged(search, results, compute)]:
        builder.add(read_edges(path))
    if base is not None:
        builder.add(base.edges(search.ids))
    edges = write_forest(search.ids, builder.forest(), output, max_distance)
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


def search_tiles(
    sides: Sequence[Side],
    work: Path,
    *,
    label: str,
    max_distance: float,
    prefix: int | None,
    precision: Precision | Literal["auto"],
    device: Wanted,
    tile_rows: int | None,
    memory_limit: int | str,
    compute: ComputeConfig,
    base: BaseForest | None = None,
) -> tuple[PreparedSearch, list[TileResult], int]:
    """Prepare a search in the folder ``work`` and go through its tiles, or those that are left of an earlier call.

    Args:
        sides: one, for the forest of its pairs, or two, for all pairs between them.
        work: folder of the search.
        label: what progress is reported of.
        max_distance: already judged; else see :func:`near_duplicate_forest`, as for all that follow.
        prefix: see there.
        precision: see there.
        device: see there.
        tile_rows: see there.
        memory_limit: see there.
        compute: see there.
        base: see there.

    Returns:
        The search, results of its tiles in a fixed order, and how many of them were computed by this call.

    Raises:
        ConfigError: for impossible settings or a memory limit that will not do.
        EmbeddingError: for embeddings that cannot be searched.
    """
    likely = expected(device, compute)
    settings = SearchSettings(
        sides=tuple(sides),
        max_distance=max_distance,
        prefix=prefix,
        precision=precision,
        device=likely,
        tile_rows=tile_rows or TILE_ROWS[likely],
        workers=1 if compute.engine == "inline" else compute.workers,
        base=base,
    )
    rows = sum(file.rows for side in sides for file in side.inspect())
    require_memory(settings.peak_memory(rows), parse_size(memory_limit, what="memory_limit"), rows=rows)
    search = prepare(settings, work)
    log.info("%s: %s", label, search.plan)
    try:
        # Where no GPU is expected, none is taken: a CPU's tiles are small for it.
        wanted = device if likely == "cuda" else "cpu"
        results, computed = run_tiles(search, compute, device=wanted, workers=settings.workers, label=label)
    finally:
        # Whoever runs next, a training for example, finds the device's memory free.
        let_go()
    return search, results, computed


def require_distance(max_distance: float) -> None:
    """:class:`ConfigError` for what cannot be asked for; at 2 and beyond every pair is near."""
    if not 0 < max_distance < 2:
        raise ConfigError(f"max_distance must lie in (0, 2), the distances of unit vectors; got {max_distance}")


def pairs_schema(max_distance: float) -> pa.Schema:
    """Columns of a file of near pairs, with the largest threshold that may be asked of it."""
    return schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(max_distance)})


def write_forest(ids: np.ndarray, forest: Edges, output: Path, max_distance: float) -> int:
    """Write a forest of numbers among ``ids``, whole or not at all, and return the number of its edges."""
    columns = [ids[forest.a], ids[forest.b], forest.distance]
    table = pa.Table.from_arrays(columns, schema=pairs_schema(max_distance))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    parquet.write_table(table, temporary, compression="zstd")
    temporary.replace(output)
    return len(forest)

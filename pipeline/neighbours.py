"""Who is near: all pairs of embeddings within a distance, exactly, reduced to their minimum spanning forest.

Embeddings are packed once (:mod:`pipeline.packed`), get score columns (:mod:`pipeline.prefix`), and their distance
matrix is worked through in tiles (:mod:`pipeline.tiles`), here, in local processes or on Ray. Every finished tile is a
file, so that a search that was cut off goes on with the others. The forests of the tiles are merged in a tree.
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
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.compute import ComputeConfig
from pipeline.config import NeighboursConfig
from pipeline.devices import Wanted, expected
from pipeline.errors import ConfigError, MissingInputError
from pipeline.forest import Edges, ForestBuilder
from pipeline.plan import require_memory
from pipeline.prefix import Precision
from pipeline.search import BaseForest, SearchSettings, merged, prepare, run_tiles
from pipeline.storage import storage_of
from pipeline.store import Stage, StageResult, read_result, shard_digests
from pipeline.tiles import TILE_ROWS, let_go, read_edges
from pipeline.vectors import as_paths, inspect

log = logging.getLogger(__name__)

_STAGE_VERSION = 2
_FOREST = "near_duplicates/forest.parquet"
# Which shards of embeddings the forest was made from, with their digests. Not JSON: it is no content of the table.
_COVERED = "near_duplicates/covered.tsv"


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
    prefix: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: Wanted = "auto",
    tile_rows: int | None = None,
    memory_limit: str = "4GB",
    compute: ComputeConfig | None = None,
    work: Path | None = None,
    base: BaseForest | None = None,
) -> ForestReport:
    """Write the near-duplicate forest (``id_a < id_b, distance``) of ``column`` as one Parquet file.

    ``max_distance`` is Euclidean, between unit vectors, in (0, 2). The forest is exact: it is that of all pairs whose
    distance, from float64 differences of the stored vectors rounded to float32, is at most ``max_distance``; it depends
    on nothing else, neither order nor division of the input, tiles, prefix, device nor engine. ``prefix``: coordinates
    of the bound (none: the cheapest by trial). ``device``: ``auto`` takes CUDA where the process that searches a tile
    finds one. ``tile_rows``: none means 16,384 for a CPU, 524,288 for a GPU. ``work``: folder for intermediate files
    (as large as the embeddings), kept while the search is unfinished, so that the same call goes on where it was.
    ``base``: a forest of some of the files, made before; only pairs with a vector of the other files are searched.

    Raises :class:`ConfigError` for impossible settings or a memory limit that will not do, :class:`EmbeddingError` for
    embeddings that cannot be searched.
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
        max_distance=max_distance,
        prefix=prefix,
        precision=precision,
        device=likely,
        tile_rows=tile_rows or TILE_ROWS[likely],
        workers=1 if compute.engine == "inline" else compute.workers,
        base=base,
    )
    rows = sum(file.rows for file in inspect(settings.paths, column=column))
    require_memory(settings.peak_memory(rows), memory_limit, rows=rows)
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


def build_forest(root: Path, config: NeighboursConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``near_duplicates``: the forest over the teacher's image embeddings.

    Where the stage is complete and shards were added since, only pairs with an image of theirs are searched.
    """
    embeddings = read_result(root, "teacher_embeddings")
    stage = Stage(
        root, "near_duplicates", version=_STAGE_VERSION, config=config.content(), inputs={"forest": embeddings.digest}
    )
    if stage.is_complete():
        return stage.result()
    with stage.running():
        for shard in stage.pending():
            covered = shard_digests(root, "teacher_embeddings")
            with stage.output(shard) as output:
                report = near_duplicate_forest(
                    embeddings.parquet("teacher_embeddings"),
                    output.path(_FOREST),
                    max_distance=config.max_distance,
                    prefix=config.prefix,
                    precision=config.precision,
                    device=config.device,
                    tile_rows=config.tile_rows,
                    memory_limit=config.memory_limit,
                    compute=compute,
                    # Not in the temporary folder of the output, which a new run clears.
                    work=root / ".near_duplicates",
                    base=_base(root, config, covered),
                )
                output.path(_COVERED).write_text("".join(f"{name}\t{digest}\n" for name, digest in covered.items()))
                output.rows, output.stats = report.edges, {**dataclasses.asdict(report), "version": _STAGE_VERSION}
        return stage.finish()


def _base(root: Path, config: NeighboursConfig, now: dict[str, str]) -> BaseForest | None:
    """The forest of an earlier run, if it was made like this one from shards that are all still there."""
    try:
        earlier = read_result(root, "near_duplicates")
    except MissingInputError:
        return None
    if earlier.stats.get("version") != _STAGE_VERSION or earlier.stats["max_distance"] != config.max_distance:
        return None
    storage_of(root).fetch([_COVERED, _FOREST])
    covered = dict(line.split("\t") for line in (root / _COVERED).read_text().splitlines())
    if not covered.items() <= now.items():
        return None
    log.info("near_duplicates: %d of %d shards are covered by the forest that is there", len(covered), len(now))
    folder = root / "teacher_embeddings"
    return BaseForest(forest=root / _FOREST, embeddings=tuple(folder / f"{name}.parquet" for name in sorted(covered)))


def _write(ids: np.ndarray, forest: Edges, output: Path, max_distance: float) -> int:
    # The largest threshold that may be asked of this file.
    table_schema = schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(max_distance)})
    table = pa.Table.from_arrays([ids[forest.a], ids[forest.b], forest.distance], schema=table_schema)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(output)
    return len(forest)

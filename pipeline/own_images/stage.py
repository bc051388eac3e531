"""Images that are there to ``source_pairs``: what is found is listed shard by shard, then named across all of them.

Listing (``own_samples``) is the work, and done for each tar, part of a folder or part of a Parquet file on its own. Of
that ``source_pairs``, ``own_images`` and ``unused_images`` are made in one go, since one that is found twice is one.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import parquet, query, schema
from pipeline.core.errors import SourceError
from pipeline.core.progress import Progress
from pipeline.core.query import QueryConfig
from pipeline.own_images.config import UNUSED, OwnImages
from pipeline.own_images.find import find_images
from pipeline.own_images.parts import Part, cut_into_parts
from pipeline.own_images.samples import SAMPLES
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage

log = logging.getLogger(__name__)

# Shards that one connection of DuckDB lists, and how many that lie elsewhere at once.
_IN_A_TASK, _AT_ONCE = 16, 8
# Columns whose values are few.
_REPEATED = ["shard", "path", "identity", "extension", "unused"]

OWN_IMAGES = pa.schema(
    [
        schema.IMAGE_ID,
        *(field for field in SAMPLES if field.name not in ("name", "captions", "unused", "error")),
    ]
)
"""Columns of ``own_images``: where each image of ``source_pairs`` lies, and what is known of it."""

UNUSED_IMAGES = pa.schema([pa.field(name, pa.string()) for name in ("shard", "key", "reason", "error")])
"""Columns of ``unused_images``: what was found and is no image of ``source_pairs``, and why (``config.UNUSED``)."""


def import_own_pairs(
    root: Path, config: OwnImages, query_config: QueryConfig, compute: ComputeConfig | None = None
) -> StageResult:
    """Stage ``source_pairs`` for images that are there, where they stay.

    Raises :class:`SourceError` for what is not there, is none of folder, tar and Parquet, or holds no usable pair.
    """
    root = Path(root)
    parts, passed_over = cut_into_parts(find_images(config, root), config)
    if not parts:
        raise SourceError(f"no image with a caption in {config.images}: 0 samples found")
    found = _list_samples(root, config, query_config, compute or ComputeConfig(), parts)
    inputs = {"pairs": found.digest}
    stage = Stage(root, "source_pairs", version=3, config={"own_images": True, "limit": config.limit}, inputs=inputs)

    def write(output: Output) -> None:
        with query.connect(query_config, scratch=root / ".tmp") as connection:
            query.view(connection, "own_samples", found.parquet("own_samples"))
            limit = "" if config.limit is None else f"LIMIT {config.limit}"
            connection.execute(query.sql("pipeline.own_images", "own_pairs").format(limit=limit))
            output.stats = _counts(connection, config) | _sums([found.stats, passed_over])
            _write_tables(connection, output)

    return stage.each(write)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """Shards that one process lists, each with the stage for it alone."""

    root: Path
    config: OwnImages
    query: QueryConfig
    parts: list[tuple[str, Part, Stage]]


def _list_samples(
    root: Path, config: OwnImages, query_config: QueryConfig, compute: ComputeConfig, parts: Sequence[Part]
) -> StageResult:
    """Stage ``own_samples``: what is found in each part, which is not looked at again while it is the same."""
    by_shard = {f"{number:05d}": part for number, part in enumerate(parts)}
    inputs = {shard: part.identity for shard, part in by_shard.items()}
    stage = Stage(root, "own_samples", version=1, config=config.samples(), inputs=inputs)

    def work(pending: list[str]) -> None:
        tasks = [
            _Task(
                root=root,
                config=config,
                query=query_config,
                parts=[(shard, by_shard[shard], stage.only(shard)) for shard in pending[start : start + _IN_A_TASK]],
            )
            for start in range(0, len(pending), _IN_A_TASK)
        ]
        with (
            Progress(log, "own images", total=len(pending), unit="shards") as progress,
            map_shards(_list_some, tasks, compute) as finished,
        ):
            for shards in finished:
                for shard in shards:
                    stage.done_elsewhere(shard)
                progress.add(len(shards))

    return stage.run(work)


def _list_some(task: _Task) -> list[str]:
    """List the shards of a task, in any process; tars that lie elsewhere several at once."""
    task.parts[0][2].attach()
    elsewhere = any(not place.local for _, part, _ in task.parts for place in part.source.files)

    with query.connect(task.query, scratch=task.root / ".tmp") as connection:

        def write(shard: str, part: Part, stage: Stage) -> str:
            with stage.output(shard) as output, connection.cursor() as own:
                table, counts = part.samples(own, task.config, shard=shard)
                parquet.write_table(
                    table, output.path(f"own_samples/{shard}.parquet"), compression="zstd", use_dictionary=_REPEATED
                )
                output.rows, output.stats = table.num_rows, counts
            return shard

        with ThreadPoolExecutor(_AT_ONCE if elsewhere else 1) as pool:
            return list(pool.map(lambda part: write(*part), task.parts))


def _counts(connection: duckdb.DuckDBPyConnection, config: OwnImages) -> dict[str, Any]:
    """Counts that account for every sample; :class:`SourceError` if none is left, or ids collide."""
    counts = query.one(connection, query.sql("pipeline.own_images", "own_counts"), {})
    assert counts is not None
    unused = "SELECT unused, count(*) FROM own_samples WHERE unused IS NOT NULL GROUP BY ALL"
    reasons = dict(connection.execute(unused).fetchall())
    if (counts["images"], counts["pairs"]) != (counts.pop("image_ids"), counts.pop("sample_ids")):
        raise SourceError(f"ids still collide after a second minting, among {counts['images']} images")
    if not counts["images"]:
        first = connection.execute("SELECT path, key, error FROM own_samples ORDER BY shard, number LIMIT 1").fetchall()
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise SourceError(
            f"no image with a caption in {config.images}: {counts['found']} samples found"
            + (f" ({told}), the first {' '.join(str(part) for part in first[0] if part)}" if first else "")
        )
    return counts | {reason: reasons[reason] for reason in UNUSED if reason in reasons}


def _write_tables(connection: duckdb.DuckDBPyConnection, output: Output) -> None:
    """A file for each shard in which there is something, of each table."""
    tables = {"source_pairs": schema.SOURCE_PAIRS, "own_images": OWN_IMAGES, "unused_images": UNUSED_IMAGES}
    for name, table_schema in tables.items():
        text = query.sql("pipeline.own_images", f"{name}_by_shard")
        for shard, table in _by_shard(query.stream(connection, text, {})):
            path = output.path(f"{name}/{shard}.parquet")
            parquet.write_table(table.select(table_schema.names).cast(table_schema), path, compression="zstd")
            output.rows += table.num_rows if name == "source_pairs" else 0


def _by_shard(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
    """Tables of the rows of one shard each, of rows that are ordered by shard."""
    held: list[pa.RecordBatch] = []
    current: str | None = None
    for batch in batches:
        runs = pc.run_end_encode(batch.column("shard"))
        start = 0
        for shard, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist()):
            if shard != current:
                if held and current is not None:
                    yield current, pa.Table.from_batches(held)
                held, current = [], shard
            held.append(batch.slice(start, stop - start))
            start = stop
    if held and current is not None:
        yield current, pa.Table.from_batches(held)


def _sums(stats: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for counts in stats for name in counts)
    return {name: total for name in names if (total := sum(counts.get(name, 0) for counts in stats))}

"""Images that are there to ``source_pairs``: what is found is listed shard by shard, then named across all of them.

Listing (``own_samples``) is the work, and done for each tar, part of a folder or part of a Parquet file on its own. Of
that ``source_pairs``, ``own_images`` and ``unused_images`` are made in one go, since one that is found twice is one.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import parquet, query
from pipeline.core.errors import SourceError
from pipeline.core.progress import Progress
from pipeline.core.query import QueryConfig
from pipeline.own_images.attributes import attribute_types, told_by
from pipeline.own_images.config import OwnImages
from pipeline.own_images.find import find_images
from pipeline.own_images.pairs import known_types, mint_own_pairs, own_counts, write_tables
from pipeline.own_images.parts import Part, cut_into_parts
from pipeline.source.pairs import define_wanted
from pipeline.storage.purged import HASHED_ID, purged_images
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage

log = logging.getLogger(__name__)

# Shards that one connection of DuckDB lists, and how many at once: of those that lie elsewhere, and at most of others.
_IN_A_TASK, _ELSEWHERE, _HERE = 16, 8, 4
# Columns whose values are few.
_REPEATED = ["shard", "path", "identity", "extension", "unused"]


def import_own_pairs(
    root: Path, config: OwnImages, query_config: QueryConfig, compute: ComputeConfig | None = None
) -> StageResult:
    """Stage ``source_pairs`` for images that are there, where they stay.

    Raises :class:`SourceError` for what is not there, is none of folder, tar and Parquet, or holds no usable pair.
    """
    root = Path(root)
    sources = find_images(config, root)
    parts, passed_over = cut_into_parts(sources, config)
    if not parts:
        raise SourceError(f"no image with a caption in {config.images}: 0 samples found")
    with query.connect(query_config, scratch=root / ".tmp") as connection:
        types = attribute_types(connection, sources, config)
        if config.where is not None:
            define_wanted(connection, known_types(types), config.where)
    found = _list_samples(root, config, parts, types, query_config=query_config, compute=compute or ComputeConfig())
    counts = {name: count for name, count in found.stats.items() if name not in map(told_by, types)}
    for name in types:
        if not found.stats.get(told_by(name)):
            raise SourceError(f"images {config.images}: no column {[name]}; none of their samples has it")
    selected = {name: value for name, value in (("types", types), ("where", config.where)) if value}
    stage = Stage(
        root,
        "source_pairs",
        version=3,
        config={"own_images": True, "limit": config.limit} | selected,
        inputs={"pairs": found.digest},
    )

    def write(output: Output) -> None:
        with query.connect(query_config, scratch=root / ".tmp") as connection:
            query.view(connection, "own_samples", found.parquet("own_samples"))
            mint_own_pairs(connection, config, types)
            own = own_counts(connection, config, types)
            others = _sums([counts, passed_over])
            output.stats = own | {name: own.get(name, 0) + count for name, count in others.items()}
            write_tables(connection, output, types, purged_images(root))

    return stage.each(write)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """Shards that one process lists, each with the stage for it alone."""

    root: Path
    config: OwnImages
    query: QueryConfig
    types: Mapping[str, str]
    parts: list[tuple[str, Part, Stage]]


def _list_samples(
    root: Path,
    config: OwnImages,
    parts: Sequence[Part],
    types: Mapping[str, str],
    *,
    query_config: QueryConfig,
    compute: ComputeConfig,
) -> StageResult:
    """Stage ``own_samples``: what is found in each part, which is not looked at again while it is the same."""
    by_shard = {f"{number:05d}": part for number, part in enumerate(parts)}
    inputs = {shard: part.identity for shard, part in by_shard.items()}
    stage = Stage(
        root, "own_samples", version=1, config=config.samples() | ({"types": types} if types else {}), inputs=inputs
    )

    def work(pending: list[str]) -> None:
        tasks = [
            _Task(
                root=root,
                config=config,
                query=query_config,
                types=types,
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
    """List the shards of a task, in any process, several at once. DuckDB has one thread for each, since a tar has
    too few rows to be divided among more."""
    task.parts[0][2].attach()
    elsewhere = any(not place.local for _, part, _ in task.parts for place in part.source.files)

    purged = purged_images(task.root)
    with query.connect(task.query.model_copy(update={"threads": 1}), scratch=task.root / ".tmp") as connection:

        def write(shard: str, part: Part, stage: Stage) -> str:
            with stage.output(shard) as output, connection.cursor() as own:
                table, counts = part.samples(own, task.config, task.types, shard=shard)
                table = _less_purged(own, table, purged)
                parquet.write_table(
                    table, output.path(f"own_samples/{shard}.parquet"), compression="zstd", use_dictionary=_REPEATED
                )
                output.rows, output.stats = table.num_rows, counts
            return shard

        here = min(task.query.threads or os.cpu_count() or 1, _HERE)
        with ThreadPoolExecutor(_ELSEWHERE if elsewhere else here) as pool:
            return list(pool.map(lambda part: write(*part), task.parts))


def _less_purged(connection: duckdb.DuckDBPyConnection, table: pa.Table, purged: np.ndarray) -> pa.Table:
    """The samples with the id of what they are called, by which a purge finds them; those that were purged are out."""
    connection.register("listed", table)
    named = "(md5_number_lower(coalesce(name, url, ''))::HUGEINT - 9223372036854775808)::BIGINT"
    ids = connection.sql(f"SELECT {named} AS id FROM listed").to_arrow_table()["id"].combine_chunks()
    connection.unregister("listed")
    table = table.append_column(pa.field(HASHED_ID, pa.int64(), nullable=False), ids)
    return table.filter(pa.array(~np.isin(ids.to_numpy(), purged)))


def _sums(stats: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for counts in stats for name in counts)
    return {name: total for name in names if (total := sum(counts.get(name, 0) for counts in stats))}

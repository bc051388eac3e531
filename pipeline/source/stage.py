"""URL lists to ``source_pairs``: Parquet, CSV, TSV or JSON lists in; ``sample_id, url, caption`` out, in shards."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core import parquet, query, schema
from pipeline.core.errors import SourceError
from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.source.delimited import insert_delimited
from pipeline.source.listed import Listed, find_lists, identity
from pipeline.source.records import insert_json, insert_parquet
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage

log = logging.getLogger(__name__)

_INSERT = {"parquet": insert_parquet, "json": insert_json, "csv": insert_delimited, "tsv": insert_delimited}


def import_pairs(root: Path, config: SourceConfig, query_config: QueryConfig, *, lists: list[str]) -> StageResult:
    """Stage ``source_pairs``. ``lists`` are paths, globs or fsspec URLs, already free of the word ``demo``.

    Raises :class:`SourceError` for a missing list, an unknown format, a missing column or no usable pair.
    """
    found = find_lists(lists, config)
    identities = [identity(listed, Path(root)) for listed in found]
    stage = Stage(root, "source_pairs", version=2, config=config.content(), inputs={"pairs": identities})

    def write(output: Output) -> None:
        with query.connect(query_config, scratch=root / ".tmp") as connection:
            bad = _load(connection, config, found, root / ".tmp")
            output.stats = _counts(connection, config, found) | {"bad_lines": bad}
            for index, table in enumerate(_shards(connection, config)):
                parquet.write_table(table, output.path(f"source_pairs/{index:05d}.parquet"), compression="zstd")
                output.rows += table.num_rows

    return stage.each(write)


def _load(connection: duckdb.DuckDBPyConnection, config: SourceConfig, found: list[Listed], scratch: Path) -> int:
    """Make the tables of pairs; returns how many lines were dropped."""
    connection.execute("CREATE TEMP TABLE source_rows (url VARCHAR, caption VARCHAR, list_index BIGINT)")
    bad = 0
    for index, listed in enumerate(found):
        # JSON is read by DuckDB, which knows UTF-8 alone.
        encoding = config.encoding if listed.format == "json" else "utf-8"
        with listed.in_utf8(encoding, scratch) as readable:
            bad += _INSERT[listed.format](connection, readable, config, list_index=index)
    connection.execute(query.sql("pipeline.source", "source_pairs"))
    return bad


def _counts(connection: duckdb.DuckDBPyConnection, config: SourceConfig, found: list[Listed]) -> dict[str, Any]:
    names = [listed.name for listed in found]
    return collect_counts(
        connection, f"{names}, columns {config.url_column!r} for the URL and {config.caption_column!r} for the caption"
    )


def collect_counts(connection: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    """Counts of what ``source_pairs.sql`` has made; :class:`SourceError` for ids that collide, or no usable pair."""
    counts = query.one(connection, query.sql("pipeline.source", "source_counts"), {})
    assert counts is not None
    if counts["pairs"] != counts.pop("distinct_ids"):
        raise SourceError(f"sample ids still collide after a second minting, among {counts['pairs']} pairs")
    if not counts["pairs"]:
        raise SourceError(
            f"no usable pair in {where}: {counts['listed']} rows, {counts['unusable']} of them without a URL or "
            "without a caption"
        )
    return counts


def _shards(connection: duckdb.DuckDBPyConnection, config: SourceConfig) -> Iterator[pa.Table]:
    """Pairs ordered by (list, sample_id), which does not depend on the order of rows, cut into shards."""
    selected = "SELECT * FROM pairs"
    if config.limit is not None:
        selected += f" ORDER BY sample_id LIMIT {config.limit}"
    ordered = f"SELECT sample_id, url, caption FROM ({selected}) ORDER BY list_index, sample_id"
    yield from query.cut(query.stream(connection, ordered, {}, schema.SOURCE_PAIRS), config.samples_per_shard)

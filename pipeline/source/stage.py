"""URL lists to ``source_pairs``: Parquet, CSV, TSV or JSON lists in; ``sample_id, url, caption`` out, in shards."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query, schema
from pipeline.core.errors import SourceError
from pipeline.core.files import file_digest, fingerprint_of
from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage

log = logging.getLogger(__name__)

_SCANS = {
    "parquet": "read_parquet('{path}', hive_partitioning = false)",
    "csv": "read_csv('{path}', delim = ',', {plain})",
    "tsv": "read_csv('{path}', delim = '\t', {plain})",
    "json": "read_json('{path}', hive_partitioning = false)",
}
# What is not said here DuckDB would guess from the first 20,480 rows.
_PLAIN = (
    "quote = '{quote}', escape = '{quote}', header = true, all_varchar = true, comment = '', skip = 0, "
    "hive_partitioning = false"
)
_QUOTES = {"csv": '"', "tsv": ""}
_ENDINGS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "ndjson": "json"}


def import_pairs(root: Path, config: SourceConfig, query_config: QueryConfig, *, lists: list[str]) -> StageResult:
    """Stage ``source_pairs``. ``lists`` are paths, globs or fsspec URLs, already free of the word ``demo``.

    Raises :class:`SourceError` for a missing list, an unknown format, a missing column or no usable pair.
    """
    found = _expand(lists)
    # A setting that earlier versions had not, left out where it changes nothing, so that what they made stays theirs.
    content = config.model_dump(exclude={"lists"} | ({"quote"} if config.quote is None else set()))
    identities = [_identity(name, Path(root)) for name in found]
    stage = Stage(root, "source_pairs", version=2, config=content, inputs={"pairs": identities})

    def write(output: Output) -> None:
        with query.connect(query_config, scratch=root / ".tmp") as connection:
            _load(connection, config, found)
            output.stats = _counts(connection, config, found)
            for index, table in enumerate(_shards(connection, config)):
                pq.write_table(table, output.path(f"source_pairs/{index:05d}.parquet"), compression="zstd")
                output.rows += table.num_rows

    return stage.each(write)


def _expand(lists: list[str]) -> list[str]:
    """Globs resolved, order kept, every list present."""
    found: list[str] = []
    for pattern in lists:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        names = sorted(filesystem.glob(path)) if fsspec.core.has_magic(path) else [path]
        names = [name for name in names if filesystem.isfile(name)]
        if not names:
            raise SourceError(f"list {pattern!r}: no such file")
        found += [filesystem.unstrip_protocol(name) for name in names]
    return found


def _identity(name: str, root: Path) -> str:
    """What a list is, without reading it: its path, size and time or tag of last change. A list under the root, whose
    path and time differ from copy to copy, by its content."""
    filesystem, path = fsspec.core.url_to_fs(name)
    if "file" in filesystem.protocol and Path(path).is_relative_to(root.resolve()):
        return fingerprint_of(Path(path).relative_to(root.resolve()).as_posix(), file_digest(Path(path)))
    info = filesystem.info(path)
    return fingerprint_of(
        name, info.get("size"), str(info.get("mtime") or info.get("ETag") or info.get("LastModified"))
    )


def _load(connection: duckdb.DuckDBPyConnection, config: SourceConfig, found: list[str]) -> None:
    connection.execute("CREATE TEMP TABLE source_rows (url VARCHAR, caption VARCHAR, list_index BIGINT)")
    for index, name in enumerate(found):
        scan = _scan(connection, name, config)
        columns = [row[0] for row in _read(connection, f"DESCRIBE SELECT * FROM {scan}", name).fetchall()]
        missing = {config.url_column, config.caption_column} - set(columns)
        if missing:
            quoted = any(column.startswith('"') for column in columns)
            hint = """; if its fields are quoted, set source.quote: '"'""" if quoted else ""
            raise SourceError(f"list {name}: no column {sorted(missing)}; it has {columns}{hint}")
        rows = query.sql("pipeline.source", "source_rows").format(
            url_column=config.url_column.replace('"', '""'),
            caption_column=config.caption_column.replace('"', '""'),
            list_index=index,
            scan=scan,
        )
        _read(connection, f"INSERT INTO source_rows {rows}", name)
    connection.execute(query.sql("pipeline.source", "source_pairs"))


def _scan(connection: duckdb.DuckDBPyConnection, name: str, config: SourceConfig) -> str:
    filesystem, path = fsspec.core.url_to_fs(name)
    format_: str = config.format
    if format_ == "auto":
        endings = [ending for ending in Path(path).name.lower().split(".")[1:] if ending in _ENDINGS]
        if not endings:
            raise SourceError(f"list {name}: format not known from its name; expected one of {sorted(_ENDINGS)}")
        format_ = _ENDINGS[endings[-1]]
    if "file" not in filesystem.protocol:
        connection.register_filesystem(filesystem)
        path = name
    quote = _QUOTES.get(format_, "") if config.quote is None else config.quote
    plain = _PLAIN.format(quote=quote.replace("'", "''"))
    return _SCANS[format_].format(path=str(path).replace("'", "''"), plain=plain)


def _read(connection: duckdb.DuckDBPyConnection, text: str, name: str) -> duckdb.DuckDBPyConnection:
    try:
        return connection.execute(text)
    except duckdb.Error as error:
        raise SourceError(f"list {name}: cannot be read: {error}") from error


def _counts(connection: duckdb.DuckDBPyConnection, config: SourceConfig, found: list[str]) -> dict[str, Any]:
    return collect_counts(
        connection, f"{found}, columns {config.url_column!r} for the URL and {config.caption_column!r} for the caption"
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

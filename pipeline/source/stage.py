"""URL lists to ``source_pairs``: Parquet, CSV, TSV or JSON lists in; ids, URL and caption out, in shards."""

from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb

from pipeline.blocklists import blocklist_digests
from pipeline.core import query
from pipeline.core.query import QueryConfig
from pipeline.source.columnar import insert_parquet, own_types
from pipeline.source.config import SourceConfig
from pipeline.source.delimited import insert_delimited
from pipeline.source.fields import Lines, attribute_types
from pipeline.source.listed import Listed, find_lists, identity
from pipeline.source.pairs import create_rows, write_pairs
from pipeline.source.records import insert_json
from pipeline.storage.purged import purged_images
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage

# Raised with what makes other tables of the same lists.
VERSION = 3

_INSERT: dict[str, Callable[..., Lines]] = {
    "parquet": insert_parquet,
    "json": insert_json,
    "csv": insert_delimited,
    "tsv": insert_delimited,
}


def import_pairs(root: Path, config: SourceConfig, query_config: QueryConfig, *, lists: list[str]) -> StageResult:
    """Stage ``source_pairs``. ``lists`` are paths, globs or fsspec URLs, already free of the word ``demo``.

    Raises :class:`SourceError` for a missing list, an unknown format, a missing column or no usable pair, and
    :class:`ConfigError` for a condition that is none.
    """
    found = find_lists(lists, config)
    identities = [identity(listed, Path(root)) for listed in found]
    content = config.content()
    if config.blocklist:
        content["blocklist"] = blocklist_digests(config.blocklist)
    stage = Stage(root, "source_pairs", version=VERSION, config=content, inputs={"pairs": identities})

    def write(output: Output) -> None:
        with query.connect(query_config, scratch=root / ".tmp") as connection:
            # Times with a zone are shown, and cast, in that of the machine otherwise.
            connection.execute("SET TimeZone = 'UTC'")
            types = _types(connection, config, found)
            create_rows(connection, types)
            read, bad = _load(connection, config, found, types, root / ".tmp")
            names = [listed.name for listed in found]
            described = f"{names}, columns {config.url_column!r} for the URL and {config.captions} for the caption"
            purged = purged_images(root)
            write_pairs(connection, config, output, described=described, types=types, lines=read, purged=purged)
            output.stats["bad_lines"] = bad

    return stage.each(write)


def _types(connection: duckdb.DuckDBPyConnection, config: SourceConfig, found: list[Listed]) -> dict[str, str]:
    tables = [listed for listed in found if listed.format == "parquet" and config.columns]
    own = {listed.name: own_types(connection, listed, config) for listed in tables}
    return attribute_types(found, config, own)


def _load(
    connection: duckdb.DuckDBPyConnection,
    config: SourceConfig,
    found: list[Listed],
    types: Mapping[str, str],
    scratch: Path,
) -> Lines:
    """Fill ``source_rows``."""
    read, bad = 0, 0
    for index, listed in enumerate(found):
        # JSON is read by DuckDB, which knows UTF-8 alone.
        encoding = config.encoding if listed.format == "json" else "utf-8"
        with listed.in_utf8(encoding, scratch) as readable:
            lines = _INSERT[listed.format](connection, readable, config, list_index=index, types=types)
        read, bad = read + lines.read, bad + lines.bad
    return Lines(read, bad)

"""Rows of URL and caption to ``source_pairs``: ids minted, repeats dropped, images with all their captions in shards.

Whoever has pairs fills the table that :func:`create_rows` makes, and calls :func:`write_pairs`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.blocklists import blocked_rows
from pipeline.core import parquet, query, schema
from pipeline.core.errors import BlocklistError, SourceError
from pipeline.source.carried import identifier
from pipeline.source.config import SourceConfig
from pipeline.storage.purged import write_unpurged
from pipeline.storage.stage import Output

_PACKAGE = "pipeline.source"
_NONE = np.empty(0, np.int64)
# What is known of an image only when it is there; balance.blocklist takes these too.
_LATER = ("sha256", "md5")


def create_rows(connection: duckdb.DuckDBPyConnection, types: Mapping[str, str] | None = None) -> None:
    """Table ``source_rows(url, name, caption, list_index)``, and ``attributes``, a struct, where there are types of
    such.

    ``name`` is null where the URL is the image's name. An image without a URL has a name, which the bytes give.
    """
    fields = ", ".join(f"{identifier(name)} {type_}" for name, type_ in (types or {}).items())
    attributes = f", attributes STRUCT({fields})" if fields else ""
    connection.execute(
        f"CREATE TEMP TABLE source_rows (url VARCHAR, name VARCHAR, caption VARCHAR, list_index BIGINT{attributes})"
    )


def write_pairs(
    connection: duckdb.DuckDBPyConnection,
    config: SourceConfig,
    output: Output,
    *,
    described: str,
    types: Mapping[str, str] | None = None,
    lines: int | None = None,
    purged: np.ndarray = _NONE,
) -> None:
    """Write ``source_pairs``, and ``source_attributes`` if there are types of such, of what is in ``source_rows``.

    Args:
        connection: where ``source_rows`` is, as :func:`create_rows` made it.
        config: gives condition, limit and size of shards.
        output: gets files, rows and counts.
        described: where the rows are from, for errors.
        types: DuckDB's types of the carried columns.
        lines: how many lines gave the rows, if not as many as there are rows.
        purged: ids of images that were purged from the root, and do not come back.

    Raises:
        pipeline.core.errors.BlocklistError: for a blocklist that cannot be read, or blocks all.
        SourceError: if no pair is left, or the condition cannot be computed for one.
        ConfigError: if the condition is none over these columns.
    """
    types = types or {}
    mint_pairs(connection, types=types, where=config.where)
    output.stats |= collect_counts(connection, described, lines=lines, where=config.where)
    if types:
        conflicts = connection.execute("SELECT count(*) FROM pairs WHERE conflicting").fetchall()
        output.stats["attribute_conflicts"] = conflicts[0][0]
    blocked = _blocked(connection, config, output)
    names = {"source_pairs": schema.SOURCE_PAIRS.names}
    if types:
        names["source_attributes"] = ["sample_id", "image_id", *types]
    for index, whole in enumerate(_shards(connection, config, types)):
        # After the cut, so that a longer blocklist leaves other shards as they are.
        table, out = _parted(whole, blocked)
        if out.num_rows:
            parquet.write_table(out, output.path(f"blocked_source_pairs/{index:05d}.parquet"), compression="zstd")
        for name, columns in names.items():
            path = f"{name}/{index:05d}.parquet"
            write_unpurged(output, path, table.select(columns), purged, compression="zstd")
        output.rows += table.num_rows


def _blocked(connection: duckdb.DuckDBPyConnection, config: SourceConfig, output: Output) -> pa.Table:
    """``image_id, matched`` of images that are not to be asked for."""
    if not config.blocklist:
        return pa.table({"image_id": pa.array([], pa.int64()), "matched": pa.array([], pa.string())})
    counts = blocked_rows(connection, config.blocklist, "pairs", later=_LATER)
    if counts.blocked == output.stats["images"]:
        raise BlocklistError(f"source.blocklist blocks all {counts.blocked} images")
    output.stats |= {"blocked": counts.blocked, "blocklist_unmatched": counts.unmatched}
    return connection.sql("SELECT image_id, matched FROM blocked ORDER BY image_id").to_arrow_table()


def _parted(table: pa.Table, blocked: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Pairs that may be used, and ids of the others with what blocks them, without URL and caption."""
    if not blocked.num_rows:
        return table, table.slice(0, 0)
    out = table.select(["sample_id", "image_id"]).join(blocked, "image_id", join_type="inner")
    out = out.select(schema.BLOCKED_PAIRS.names).cast(schema.BLOCKED_PAIRS).sort_by([("sample_id", "ascending")])
    used = np.isin(table["image_id"].to_numpy(), blocked["image_id"].to_numpy(), invert=True)
    return table.filter(pa.array(used)), out


def mint_pairs(
    connection: duckdb.DuckDBPyConnection, *, types: Mapping[str, str] | None = None, where: str | None = None
) -> None:
    """Tables ``usable`` and ``pairs`` of what is in ``source_rows``."""
    types = types or {}
    connection.execute(query.sql(_PACKAGE, "source_macros"))
    wanted, filtered = "is_usable(url, name, caption)", "SELECT 0 AS filtered, NULL AS unusable"
    if where is not None:
        define_wanted(connection, types, where)
        url = "CASE WHEN url IS NOT NULL THEN coalesce(name, trim(url)) END"
        seen = ", ".join([url, "caption", *(_attribute(name) for name in types)])
        # Not AND, whose sides DuckDB may take in either order: what cannot be used need not be computed either.
        wanted = f"CASE WHEN {wanted} THEN coalesce(wanted({seen}), false) ELSE false END"
        filtered = query.sql(_PACKAGE, "filtered_pairs").format(wanted=wanted)
    kept = query.sql(_PACKAGE, "first_attributes") if types else ""
    usable = query.sql(_PACKAGE, "usable_pairs").format(wanted=wanted, attributes=kept)
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE filtered_pairs AS {filtered}")
        connection.execute(usable)
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        if where is None:
            raise
        message = str(error).splitlines()[0]
        raise SourceError(f"source.where: {where!r} cannot be computed of each pair: {message}") from error
    connection.execute(query.sql(_PACKAGE, "source_pairs"))


def collect_counts(
    connection: duckdb.DuckDBPyConnection, described: str, *, lines: int | None = None, where: str | None = None
) -> dict[str, Any]:
    """Counts of what :func:`mint_pairs` has made; :class:`SourceError` for ids that collide, or no usable pair."""
    counts = query.one(connection, query.sql(_PACKAGE, "source_counts"), {})
    assert counts is not None
    counts = {"listed": counts["captions"] if lines is None else lines} | counts
    if (unusable := counts.pop("counted_unusable")) not in (None, counts["unusable"]):
        raise SourceError(f"source.where: {where!r} gives now this, now that: {counts}, but {unusable} unusable")
    if not counts["pairs"]:
        if counts["filtered"]:
            raise SourceError(f"source.where: {where!r} removes all {counts['filtered']} usable pairs of {described}")
        raise SourceError(
            f"no usable pair in {described}: {counts['listed']} rows, {counts['unusable']} of them without a URL or "
            "without a caption"
        )
    for kind, collisions in (("sample", "id_collisions"), ("image", "image_id_collisions")):
        if counts[collisions] and not _distinct(connection, kind):
            raise SourceError(f"{kind} ids still collide after a second minting, among {counts['pairs']} pairs")
    return counts


def define_wanted(connection: duckdb.DuckDBPyConnection, types: Mapping[str, str], where: str) -> None:
    """The condition as a macro, whose parameters are all that it sees: no name of ours can be taken for a column."""
    from pipeline.core.expressions import check_expression

    check_expression(where, {"url": "VARCHAR", "caption": "VARCHAR", **types}, what="source.where")
    parameters = ", ".join(["url", "caption", *map(identifier, types)])
    connection.execute(f"CREATE OR REPLACE TEMP MACRO wanted({parameters}) AS ({where}\n)")


def _distinct(connection: duckdb.DuckDBPyConnection, kind: str) -> bool:
    of = "name, caption" if kind == "sample" else "name"
    found = connection.execute(f"SELECT count(DISTINCT {kind}_id) = count(DISTINCT ({of})) FROM pairs").fetchall()
    return bool(found[0][0])


def _shards(
    connection: duckdb.DuckDBPyConnection, config: SourceConfig, types: Mapping[str, str]
) -> Iterator[pa.Table]:
    """Pairs ordered by (first list of the image, image_id, sample_id), which does not depend on the order of rows, cut
    into shards of as many images."""
    images = "SELECT image_id, min(list_index) AS first_list FROM pairs GROUP BY image_id"
    if config.limit is not None:
        images += f" ORDER BY image_id LIMIT {config.limit}"
    carried = "".join(f", {_attribute(name)} AS {identifier(name)}" for name in types)
    ordered = (
        f"SELECT sample_id, image_id, url, caption{carried} FROM pairs JOIN ({images}) USING (image_id) "
        "ORDER BY first_list, image_id, sample_id"
    )
    fields = list(connection.sql(f"{ordered} LIMIT 0").to_arrow_table().schema)[len(schema.SOURCE_PAIRS) :]
    batches = query.stream(connection, ordered, {}, pa.schema([*schema.SOURCE_PAIRS, *fields]))
    yield from _cut(batches, config.samples_per_shard)


def _cut(batches: Iterable[pa.RecordBatch], images: int) -> Iterator[pa.Table]:
    """Tables of exactly so many images with all their rows, which follow each other; the last one of what is left."""
    held: list[pa.RecordBatch] = []
    count, last = 0, None
    for batch in batches:
        ids = batch.column("image_id").to_numpy()
        # Rows with which an image begins.
        begins = np.flatnonzero(np.concatenate([[ids[0] != last], ids[1:] != ids[:-1]]))
        done = 0
        while count + len(begins) > images:
            end = int(begins[images - count])
            yield _table([*held, batch.slice(done, end - done)])
            held, begins, done, count = [], begins[images - count :], end, 0
        held.append(batch.slice(done))
        count, last = count + len(begins), ids[-1]
    if held:
        yield _table(held)


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    """In one piece: the bytes of a Parquet file depend on how a table is divided, which earlier shards decide."""
    return pa.Table.from_batches(batches).combine_chunks()


def _attribute(name: str) -> str:
    return f"attributes.{identifier(name)}"

"""Samples that were found to images and pairs: which are wanted, their ids, and the tables that say so."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import parquet, query, schema
from pipeline.core.errors import SourceError
from pipeline.own_images.config import UNUSED, OwnImages
from pipeline.own_images.samples import SAMPLES
from pipeline.source.pairs import define_wanted
from pipeline.storage.purged import write_unpurged
from pipeline.storage.stage import Output

_PACKAGE = "pipeline.own_images"
_IDS = ("sample_id", "image_id")

OWN_IMAGES = pa.schema(
    [
        schema.IMAGE_ID,
        *(field for field in SAMPLES if field.name not in ("name", "captions", "attributes", "unused", "error")),
    ]
)
"""Columns of ``own_images``: where each image of ``source_pairs`` lies, and what is known of it."""

UNUSED_IMAGES = pa.schema([pa.field(name, pa.string()) for name in ("shard", "key", "reason", "error")])
"""Columns of ``unused_images``: what was found and is no image of ``source_pairs``, and why (``config.UNUSED``)."""


def known_types(types: Mapping[str, str]) -> dict[str, str]:
    """What a condition may be over beside URL and caption: the carried columns, and sizes where no such are carried."""
    carried = {name.lower() for name in types}
    return {**types, **{name: "INTEGER" for name in ("width", "height") if name not in carried}}


def mint_own_pairs(connection: duckdb.DuckDBPyConnection, config: OwnImages, types: Mapping[str, str]) -> None:
    """Tables ``judged``, ``named``, ``own`` and ``pairs`` of what is in ``own_samples``."""
    kind, captions = "VIEW", "captions"
    if config.where is not None:
        known = known_types(types)
        define_wanted(connection, known, config.where)
        arguments = ", ".join(["url", "caption", *_attributes(types), *list(known)[len(types) :]])
        kind, captions = "TABLE", f"list_filter(captions, lambda caption: coalesce(wanted({arguments}), false))"
    try:
        connection.execute(query.sql(_PACKAGE, "usable_samples").format(kind=kind, captions=captions))
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        if config.where is None:
            raise
        message = str(error).splitlines()[0]
        raise SourceError(f"source.where: {config.where!r} cannot be computed of each pair: {message}") from error
    limit = "" if config.limit is None else f"LIMIT {config.limit}"
    texts = query.sql(_PACKAGE, "first_attributes" if types else "texts")
    connection.execute(query.sql(_PACKAGE, "own_pairs").format(limit=limit, texts=texts.strip()))


def _attributes(types: Mapping[str, str]) -> list[str]:
    """Carried values of a sample in their types."""
    return [f"attributes[{place}]::{type_}" for place, type_ in enumerate(types.values(), 1)]


def own_counts(connection: duckdb.DuckDBPyConnection, config: OwnImages, types: Mapping[str, str]) -> dict[str, Any]:
    """Counts that account for every sample; :class:`SourceError` if none is left, or ids collide."""
    counts = query.one(connection, query.sql(_PACKAGE, "own_counts"), {})
    assert counts is not None
    unused = "SELECT unused, count(*) FROM own_samples WHERE unused IS NOT NULL GROUP BY ALL"
    reasons = dict(connection.execute(unused).fetchall())
    # What nothing was asked of is not counted.
    wanted = {
        "attribute_conflicts": bool(types),
        "filtered": config.where is not None,
        "filtered_images": config.where is not None,
    }
    if (counts["images"], counts["pairs"]) != (counts.pop("image_ids"), counts.pop("sample_ids")):
        raise SourceError(f"ids still collide after a second minting, among {counts['images']} images")
    counts = {name: counts[name] for name in counts if wanted.get(name, True)}
    if not counts["images"]:
        if counts.get("filtered"):
            raise SourceError(
                f"source.where: {config.where!r} removes all {counts['filtered']} usable pairs of {config.images}"
            )
        first = connection.execute("SELECT path, key, error FROM own_samples ORDER BY shard, number LIMIT 1").fetchall()
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise SourceError(
            f"no image with a caption in {config.images}: {counts['found']} samples found"
            + (f" ({told}), the first {' '.join(str(part) for part in first[0] if part)}" if first else "")
        )
    return counts | {reason: reasons[reason] for reason in UNUSED if reason in reasons}


def write_tables(
    connection: duckdb.DuckDBPyConnection, output: Output, types: Mapping[str, str], purged: np.ndarray
) -> None:
    """A file for each shard in which there is something, of each table."""
    aliases = [f"a{place}" for place in range(len(types))]
    attributes = "".join(f", {value} AS {alias}" for value, alias in zip(_attributes(types), aliases))
    tables = {
        "source_pairs": (schema.SOURCE_PAIRS, "source_pairs_by_shard"),
        "own_images": (OWN_IMAGES, "own_images_by_shard"),
        "unused_images": (UNUSED_IMAGES, "unused_images_by_shard"),
    }
    for name, (table_schema, query_name) in tables.items():
        text = query.sql(_PACKAGE, query_name)
        text = text.format(attributes=attributes) if name == "source_pairs" else text
        for shard, table in _by_shard(query.stream(connection, text, {})):
            made = table.select(table_schema.names).cast(table_schema)
            if schema.IMAGE_ID in table_schema:
                write_unpurged(output, f"{name}/{shard}.parquet", made, purged, compression="zstd")
            else:
                parquet.write_table(made, output.path(f"{name}/{shard}.parquet"), compression="zstd")
            if name == "source_pairs":
                output.rows += table.num_rows
            if name == "source_pairs" and types:
                made = _renamed(table.select([*_IDS, *aliases]), types)
                write_unpurged(output, f"source_attributes/{shard}.parquet", made, purged, compression="zstd")


def _renamed(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Attributes by the names that they have, which may be those of other columns of a query."""
    ids = [schema.SOURCE_PAIRS.field(name) for name in _IDS]
    attributes = [field.with_name(name) for field, name in zip(list(table.schema)[len(ids) :], names)]
    return pa.table(table.columns, schema=pa.schema([*ids, *attributes]))


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

"""Rows of a data set: from a row per caption, in the order of images, to a row per image.

Grouped here and not in SQL: DuckDB cannot spill the lists of an aggregate, and these would be all captions at once.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query, schema
from pipeline.core.errors import ConfigError

_LISTS = {"sample_id": "sample_ids", "caption": "captions", "similarity": "image_text_similarities"}
_PER_PAIR = [
    pa.field("image_id", pa.int64()),
    pa.field("sample_id", pa.int64()),
    pa.field("url", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("similarity", pa.float32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("group_size", pa.int64()),
]
_PLACE = [
    pa.field("shard", pa.string()),
    *(pa.field(name, schema.TAR_INDEX.field(name).type) for name in ("offset", "size", "crc32", "tar")),
]
PLACE = tuple(field.name for field in _PLACE)
"""Columns that say where an image's bytes lie."""

ATTRIBUTE_PREFIX = "source_"
"""Put before the name of a carried column that a data set has a column of itself."""

_KEYS = ("sample_id", "image_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carried:
    """A column of another table: its name there, and its field in the data set."""

    table: str
    name: str
    field: pa.Field


def carried_columns(attributes: Sequence[Path], scores: Sequence[Path]) -> list[Carried]:
    """Columns of ``source_attributes`` and ``scores``; :class:`ConfigError` where two would have one name.

    An attribute called ``WIDTH`` is ``source_WIDTH``, since the data set says of the stored image what its width is:
    to DuckDB these are one name.
    """
    taken = {_LISTS.get(field.name, field.name) for field in _PER_PAIR} | {"image"}
    found: list[Carried] = []
    for table, paths in (("attributes", attributes), ("scores", scores)):
        for field in pq.read_schema(paths[0]) if paths else ():
            if field.name in _KEYS:
                continue
            name = ATTRIBUTE_PREFIX + field.name if field.name.lower() in taken else field.name
            if name.lower() in {carried.field.name.lower() for carried in found}:
                raise ConfigError(
                    f"two columns of the data set would be called {name!r}: leave one out of source.columns"
                )
            found.append(Carried(table=table, name=field.name, field=pa.field(name, field.type)))
    return found


def pairs_query(carried: Sequence[Carried], *, attributes: bool, scores: bool, places: bool) -> tuple[str, pa.Schema]:
    """The query for a row per caption, and its columns: carried ones are numbered, whatever their names are."""
    names = [f"carried_{number}" for number in range(len(carried))]
    columns = [f"{one.table}.{query.identifier(one.name)} AS {name}" for one, name in zip(carried, names)]
    fields = [*_PER_PAIR, *(pa.field(name, one.field.type) for one, name in zip(carried, names))]
    if places:
        columns += [f'{"pairs" if name == "shard" else "places"}."{name}"' for name in PLACE]
        fields += _PLACE
    # Of the image itself: a caption that it took over speaks of another.
    own = "attributes.sample_id = pairs.sample_id AND attributes.image_id = pairs.image_id"
    text = query.sql("pipeline.export_dataset", "exported_pairs").format(
        columns="".join(f", {column}" for column in columns),
        attributes=f"LEFT JOIN {_table('attributes')} ON {own}" if attributes else "",
        scores=f"LEFT JOIN {_table('scores')} ON scores.image_id = pairs.image_id" if scores else "",
        places=query.sql("pipeline.export_dataset", "places") if places else "",
    )
    return text, pa.schema(fields)


def _table(name: str) -> str:
    return f"read_parquet(${name}, hive_partitioning = false) AS {name}"


def image_rows(batches: Iterable[pa.RecordBatch], carried: Sequence[Carried]) -> Iterator[pa.Table]:
    """A table for about each batch, with a row per image: its captions as lists, all else as the first of them has it.

    ``batches``: rows of :func:`pairs_query`, those of an image one after the other.
    """
    held: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        table = pa.concat_tables([held, table]) if held is not None else table
        starts = _starts(table)
        # The last image may go on in the next batch.
        if len(starts) > 1:
            yield _grouped(table.slice(0, starts[-1]), starts[:-1], carried)
        held = table.slice(starts[-1]) if len(starts) else None
    if held is not None:
        yield _grouped(held, _starts(held), carried)


def _starts(table: pa.Table) -> np.ndarray:
    """Numbers of the rows at which another image begins."""
    ids = table["image_id"].to_numpy()
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.empty(0, np.int64)


def _grouped(table: pa.Table, starts: np.ndarray, carried: Sequence[Carried]) -> pa.Table:
    first = table.take(starts)
    ends = pa.array(np.append(starts, table.num_rows), pa.int32())
    numbered = {f"carried_{number}": one.field.name for number, one in enumerate(carried)}
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in table.column_names:
        if name in _LISTS:
            columns[_LISTS[name]] = pa.ListArray.from_arrays(ends, table[name].combine_chunks())
        else:
            columns[numbered.get(name, name)] = first[name]
    return pa.table(columns)

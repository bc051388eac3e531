"""Columns that are carried along from what is said of an image: their types, and each value as its type writes it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import SourceError, brief
from pipeline.own_images.config import OwnImages
from pipeline.own_images.find import Source
from pipeline.own_images.samples import SAMPLES, literal, mark_unused
from pipeline.source.columnar import refused_type
from pipeline.source.fields import Field, attribute

Told = Mapping[str, pa.Array | pa.ChunkedArray]
"""Of each carried column ``v0``, ``v1`` ... the values, texts or of a type of Parquet's, and ``k0`` ... their kinds as
JSON calls them, null where nothing has that name."""

_NESTED = ("ARRAY", "OBJECT")
_CHARACTERS_SHOWN = 100


def attribute_types(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], config: OwnImages
) -> dict[str, str]:
    """Types of the carried columns: as asked for, else that of Parquet, else text, in which all must agree.

    Raises :class:`SourceError` where they do not, and for types of Parquet's that are not carried.
    """
    if not config.carried:
        return {}
    own = {source.name: _own_types(connection, source, config) for source in sources}
    types: dict[str, str] = {}
    for column in config.carried:
        holds = {name: held[column.name] for name, held in own.items() if column.name in held}
        first = next(iter(holds), "")
        for name, type_ in holds.items():
            if column.type is None and type_ != holds[first]:
                raise SourceError(
                    f"images {first} and {name}: column {column.name!r} is {holds[first]} in the one and {type_} in "
                    f"the other; write its type in source.columns, such as {column.name}::VARCHAR"
                )
        types[column.name] = column.type or holds.get(first, "VARCHAR")
    return types


def told_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Told:
    """What rows of JSON or CSV tell."""
    told: dict[str, pa.Array] = {}
    for place, name in enumerate(names):
        values = [row.get(name) for row in rows]
        kinds = [
            "ARRAY" if isinstance(value, list) else "OBJECT" if isinstance(value, dict) else "" for value in values
        ]
        told[f"v{place}"] = pa.array([_text(value) for value in values], pa.string())
        told[f"k{place}"] = pa.array([kind if name in row else None for kind, row in zip(kinds, rows)], pa.string())
    return told


def carry(
    connection: duckdb.DuckDBPyConnection, samples: pa.Table, told: Told, types: Mapping[str, str]
) -> tuple[pa.Table, dict[str, int]]:
    """Samples of one part with their ``attributes``, and how many of them have each of these.

    A value that is not of its type is damage, as a JSON that cannot be read.
    """
    if not types:
        return samples, {}
    connection.register("told", pa.table({"number": samples["number"], **told}))
    own = {row[0]: row[1] for row in connection.execute("DESCRIBE FROM told").fetchall()}
    fields = [_field(name, f"v{place}", own[f"v{place}"], type_) for place, (name, type_) in enumerate(types.items())]
    nested = (
        f"WHEN k{place} IN {_NESTED} THEN {literal(f'its {field.name} is no single value')}"
        for place, field in enumerate(fields)
    )
    lost = (
        f"WHEN {field.lost} THEN concat({literal(f'its {field.name} is no {field.kind}: ')}, "
        f"left({field.raw}::VARCHAR, {_CHARACTERS_SHOWN}))"
        for field in fields
        if field.lost
    )
    values = ", ".join(f"({field.value})::VARCHAR" for field in fields)
    text = f"SELECT [{values}] AS attributes, CASE {' '.join([*nested, *lost])} END AS error FROM told ORDER BY number"
    found = connection.sql(text).to_arrow_table()
    connection.unregister("told")
    damaged = pc.and_(pc.is_null(samples["unused"]), pc.is_valid(found["error"]))
    samples = mark_unused(samples, damaged, "failed_to_read", found["error"])
    place = SAMPLES.get_field_index("attributes")
    samples = samples.set_column(place, SAMPLES.field(place), found["attributes"].cast(SAMPLES.field(place).type))
    return samples, {told_by(name): pc.count(told[f"k{place}"]).as_py() for place, name in enumerate(types)}


def told_by(name: str) -> str:
    """The count of samples of which a column says something, if only that there is nothing."""
    return f"with {name}"


def _field(name: str, raw: str, own: str, type_: str) -> Field:
    # Bytes, which some writers of Parquet use for text.
    text, own = (f"TRY(decode({raw}))", "VARCHAR") if own == "BLOB" else (raw, own)
    field = attribute(name, raw, text, own, type_)
    # -0 equals 0, but has another text.
    plus = f"{field.value} + 0::{type_}" if type_ in ("FLOAT", "DOUBLE") else field.value
    return Field(name=name, raw=raw, value=plus, kind=type_) if plus != raw else field


def _own_types(connection: duckdb.DuckDBPyConnection, source: Source, config: OwnImages) -> dict[str, str]:
    """Of the columns that may be there."""
    if source.format != "parquet":
        return {column.name: "VARCHAR" for column in config.carried}
    try:
        with source.files[0].open() as file:
            schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"images {source.name}: no readable Parquet file: {brief(error)}") from error
    there = [column for column in config.carried if column.name in schema.names]
    for column in there:
        type_ = plain(schema.field(column.name).type)
        if help_ := refused_type(type_, cast=column.type is not None):
            raise SourceError(f"images {source.name}: column {column.name!r} holds {type_}{help_}")
    empty = pa.table({f"v{place}": _empty(schema.field(column.name).type) for place, column in enumerate(there)})
    if not there:
        return {}
    connection.register("empty", empty)
    rows = connection.execute("DESCRIBE FROM empty").fetchall()
    return {column.name: "VARCHAR" if row[1] == "BLOB" else row[1] for column, row in zip(there, rows)}


def plain(type_: pa.DataType) -> pa.DataType:
    """The type of the values, where they are kept as numbers of a dictionary."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _empty(type_: pa.DataType) -> pa.Array:
    return pa.array([], plain(type_))


def _text(value: Any) -> str | None:
    """A value of JSON as it is written there."""
    if value is None or isinstance(value, str):
        return value
    texts: dict[type, Callable[[Any], str]] = {bool: lambda value: str(value).lower(), float: repr}
    return texts.get(type(value), str)(value)

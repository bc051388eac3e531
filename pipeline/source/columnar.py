"""Parquet: columns by their exact names, values of their own types, or refused by name and type."""

from collections.abc import Callable, Mapping

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.fields import Field, Fields, Lines, attribute, refusal
from pipeline.source.listed import Listed

_is: tuple[Callable[[pa.DataType], bool], ...] = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_date, pa.types.is_timestamp),
    *(pa.types.is_decimal32, pa.types.is_decimal64, pa.types.is_decimal128),
)
_NESTED = (pa.types.is_nested, pa.types.is_map, pa.types.is_union)


def insert_parquet(
    connection: duckdb.DuckDBPyConnection,
    listed: Listed,
    config: SourceConfig,
    *,
    list_index: int,
    types: Mapping[str, str] | None = None,
) -> Lines:
    """Rows of a list into ``source_rows``, with attributes of the given types.

    Raises :class:`SourceError` for a column that is missing or of a type that is no text, number, time or truth value,
    and, unless those are skipped, for rows whose bytes are not UTF-8 or whose values have not the type of a cast.
    """
    schema, rows = _footer(listed)
    scan = _scan(connection, listed, schema)
    own = own_types(connection, listed, config) if types else {}
    fields = Fields(
        url=_text(schema, config.url_column, listed),
        captions=[_text(schema, column, listed, several=True) for column in config.captions],
        attributes=[_attribute(schema, name, listed, own[name], type_) for name, type_ in (types or {}).items()],
    )
    try:
        bad, reasons = fields.refused(connection, scan)
        if bad and not config.skip_bad_lines:
            raise refusal(listed, reasons)
        read = fields.insert(connection, scan, listed, list_index=list_index)
    except duckdb.Error as error:
        raise SourceError(f"list {listed.name}: cannot be read: {str(error).splitlines()[0]}") from error
    if read + bad != rows:
        raise SourceError(f"list {listed.name}: {read} rows were read and {bad} dropped of {rows}")
    return Lines(read, bad)


def own_types(connection: duckdb.DuckDBPyConnection, listed: Listed, config: SourceConfig) -> dict[str, str]:
    """DuckDB's types of the carried columns; :class:`SourceError` for a missing one, and for types that are not scalar
    or that DuckDB has not."""
    schema, _ = _footer(listed)
    if not config.carried:
        return {}
    columns = {column.name: _place(schema, column.name, listed) for column in config.carried}
    for column in config.carried:
        type_ = _value_type(schema.types[columns[column.name]])
        help_ = refused_type(type_, cast=column.type is not None)
        if help_:
            raise SourceError(f"list {listed.name}: column {column.name!r} holds {type_}{help_}")
    names = ", ".join(_readable(schema, place) for place in columns.values())
    try:
        rows = connection.execute(f"DESCRIBE SELECT {names} FROM {_scan(connection, listed, schema)}").fetchall()
    except duckdb.Error as error:
        raise SourceError(f"list {listed.name}: cannot be read: {str(error).splitlines()[0]}") from error
    return {name: row[1] for name, row in zip(columns, rows)}


def _footer(listed: Listed) -> tuple[pa.Schema, int]:
    try:
        with listed.filesystem.open(listed.path, "rb") as file:
            parquet = pq.ParquetFile(file)
            return parquet.schema_arrow, parquet.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"list {listed.name}: cannot be read: {error}") from error


def _scan(connection: duckdb.DuckDBPyConnection, listed: Listed, schema: pa.Schema) -> str:
    """The file as a table of SQL, whose columns go by their places: to DuckDB names have no case."""
    aliases = ", ".join(f"c{number}" for number in range(len(schema)))
    return (
        f"read_parquet({listed.known_to(connection)}, binary_as_string = false, union_by_name = false, "
        f"hive_partitioning = false) AS t({aliases})"
    )


def _text(schema: pa.Schema, column: str, listed: Listed, *, several: bool = False) -> Field:
    """A column of texts, or with ``several`` of lists of them."""
    place = _place(schema, column, listed)
    type_ = schema.types[place]
    many = several and _is_list(type_)
    if _is_text(type_.value_type if many else type_):
        return Field(name=column, raw=f"c{place}", value=f"c{place}", many=many)
    if _is_bytes(_value_type(type_)):
        return Field(name=column, raw=f"c{place}", value=_readable(schema, place), kind="text of UTF-8")
    help_ = "store one text a row"
    if pa.types.is_struct(type_):
        help_ = "store one of its fields as a column of its own"
    elif _is_list(type_):
        help_ = "store texts in it" if several else "store one row for each of its values"
    raise SourceError(f"list {listed.name}: column {column!r} holds {type_}, not text; {help_}")


def _attribute(schema: pa.Schema, name: str, listed: Listed, own: str, type_: str) -> Field:
    place = _place(schema, name, listed)
    return attribute(name, f"c{place}", _readable(schema, place), own, type_)


def _readable(schema: pa.Schema, place: int) -> str:
    """A column by its place; bytes, which old Spark, Impala and ClickHouse write for text, as text."""
    return f"TRY(decode(c{place}))" if _is_bytes(_value_type(schema.types[place])) else f"c{place}"


def refused_type(type_: pa.DataType, *, cast: bool) -> str | None:
    """What is wrong with a type; none if nothing is."""
    if any(test(type_) for test in _NESTED):
        return ", not one value; store what is needed of it as a column of its own"
    if pa.types.is_timestamp(type_) and type_.unit == "ns" and type_.tz:
        return ", nanoseconds with a time zone, of which some would be lost; store microseconds"
    if _is_text(type_) or _is_bytes(type_) or any(test(type_) for test in _is):
        return None
    if pa.types.is_time(type_) or pa.types.is_null(type_):
        return None if cast else "; write its type in source.columns, such as ::VARCHAR after the name"
    return ", which has no type in DuckDB that keeps it"


def _place(schema: pa.Schema, column: str, listed: Listed) -> int:
    places = [number for number, name in enumerate(schema.names) if name == column]
    if len(places) == 1:
        return places[0]
    what = f"{len(places)} columns are named {column!r}" if places else f"no column {[column]}; it has {schema.names}"
    raise SourceError(f"list {listed.name}: {what}")


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_text(type_: pa.DataType) -> bool:
    type_ = _value_type(type_)
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _is_bytes(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)

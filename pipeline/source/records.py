"""JSON and Parquet: values as they are written, or refused by name and type."""

from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query
from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.listed import Listed, literal

# Types of JSON values that stand in a file as they do in a text.
_JSON_TEXTS = ("VARCHAR", "BIGINT", "UBIGINT", "BOOLEAN")


def insert_json(connection: duckdb.DuckDBPyConnection, listed: Listed, config: SourceConfig, *, list_index: int) -> int:
    """Objects of a list, one a line or in one array, into ``source_rows``; returns how many were dropped.

    Raises :class:`SourceError` for a key that no object has, and, unless those are skipped, for lines that are no
    object and values that are no text, integer or truth value.
    """
    array = _is_array(listed)
    # Broken lines come as null, so that they can be counted. A broken array is no list.
    scan = (
        f"read_json_objects({listed.known_to(connection)}, format = '{'array' if array else 'newline_delimited'}', "
        f"ignore_errors = {str(not array).lower()}, compression = {literal(listed.compression or 'none')}, "
        "hive_partitioning = false)"
    )
    rows = query.sql("pipeline.source", "json_rows").format(
        scan=scan,
        url=literal(_pointer(config.url_column)),
        caption=literal(_pointer(config.caption_column)),
        url_key=literal(config.url_column),
        caption_key=literal(config.caption_column),
        texts=", ".join(map(literal, _JSON_TEXTS)),
    )
    try:
        connection.execute(rows)
    except duckdb.Error as error:
        raise SourceError(f"list {listed.name}: cannot be read: {str(error).splitlines()[0]}") from error
    if not array:
        _require_lines(connection, listed)
    refused = dict(
        connection.execute(
            "SELECT refused, count(*) FROM list_rows WHERE refused IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
        ).fetchall()
    )
    if refused and not config.skip_bad_lines:
        raise SourceError(_refusal(listed, refused))
    _require_keys(connection, listed, config)
    connection.execute(
        f"INSERT INTO source_rows SELECT url, caption, {list_index} FROM list_rows WHERE refused IS NULL; "
        "DROP TABLE list_rows"
    )
    return sum(refused.values())


def insert_parquet(
    connection: duckdb.DuckDBPyConnection, listed: Listed, config: SourceConfig, *, list_index: int
) -> int:
    """Rows of a list into ``source_rows``; returns how many were dropped, whose bytes are not UTF-8.

    Raises :class:`SourceError` for a column that is missing or holds neither text nor bytes, and for such rows unless
    they are skipped.
    """
    try:
        with listed.filesystem.open(listed.path, "rb") as file:
            parquet = pq.ParquetFile(file)
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"list {listed.name}: cannot be read: {error}") from error
    values = {
        name: _text_of(schema, column, listed)
        for name, column in (("url", config.url_column), ("caption", config.caption_column))
    }
    aliases = ", ".join(f"c{number}" for number in range(len(schema)))
    scan = (
        f"read_parquet({listed.known_to(connection)}, binary_as_string = false, union_by_name = false, "
        f"hive_partitioning = false) AS t({aliases})"
    )
    (url, url_text), (caption, caption_text) = values["url"], values["caption"]
    lost = f"({url_text} IS NULL AND {url} IS NOT NULL OR {caption_text} IS NULL AND {caption} IS NOT NULL)"
    try:
        # Text needs no second look, and lists of it may be large.
        text = url == url_text and caption == caption_text
        refused = 0 if text else _one(connection, f"SELECT count(*) FROM {scan} WHERE {lost}")
        if refused and not config.skip_bad_lines:
            raise SourceError(_refusal(listed, {"bytes that are not UTF-8": refused}))
        connection.execute(
            f"INSERT INTO source_rows SELECT {url_text}, {caption_text}, {list_index} FROM {scan} WHERE NOT {lost}"
        )
        read = _one(connection, f"SELECT count(*) FROM source_rows WHERE list_index = {list_index}")
    except duckdb.Error as error:
        raise SourceError(f"list {listed.name}: cannot be read: {str(error).splitlines()[0]}") from error
    if read + refused != rows:
        raise SourceError(f"list {listed.name}: {read} rows were read and {refused} dropped of {rows}")
    return int(refused)


def _refusal(listed: Listed, refused: dict[str, int]) -> str:
    what = ", ".join(f"{count} of {reason}" for reason, count in list(refused.items())[:8])
    return (
        f"list {listed.name}: rows that are not one URL and one caption as text: {what}; source.skip_bad_lines drops "
        "and counts them"
    )


def _text_of(schema: pa.Schema, column: str, listed: Listed) -> tuple[str, str]:
    """A column of Parquet by its place, and its text in SQL, null where it is none."""
    places = [number for number, name in enumerate(schema.names) if name == column]
    if len(places) != 1:
        what = (
            f"{len(places)} columns are named {column!r}" if places else f"no column {[column]}; it has {schema.names}"
        )
        raise SourceError(f"list {listed.name}: {what}")
    name, type_ = f"c{places[0]}", schema.types[places[0]]
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return name, name
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        # What old Spark, Impala and ClickHouse write for text.
        return name, f"TRY(decode({name}))"
    help_ = "store one text a row"
    if pa.types.is_struct(type_):
        help_ = "store one of its fields as a column of its own"
    elif pa.types.is_list(type_) or pa.types.is_large_list(type_):
        help_ = "store one row for each of its values"
    raise SourceError(f"list {listed.name}: column {column!r} holds {type_}, not text; {help_}")


def _is_array(listed: Listed) -> bool:
    """Whether the file is one JSON array, by its first character; its end must be there too, for DuckDB does not miss
    it."""
    with listed.bytes() as stream:
        head = stream.read(4096).lstrip(b" \t\r\n")
        if head.startswith(b"\xef\xbb\xbf") or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise SourceError(
                f"list {listed.name}: begins with a byte order mark, which JSON has not; set source.encoding to "
                f"{'utf-8-sig' if head[0] == 0xEF else 'utf-16'}"
            )
        if not head.startswith(b"["):
            return False
        last = head
        while part := stream.read(1 << 20):
            last = last[-64:] + part
    if not last.rstrip(b" \t\r\n").endswith(b"]"):
        raise SourceError(f"list {listed.name}: cannot be read: its JSON array is cut off")
    return True


def _require_keys(connection: duckdb.DuckDBPyConnection, listed: Listed, config: SourceConfig) -> None:
    for name, column in (("url", config.url_column), ("caption", config.caption_column)):
        if _one(connection, "SELECT count(*) FROM list_rows") and not _one(
            connection, f"SELECT count(*) FROM list_rows WHERE {name}_type IS NOT NULL"
        ):
            raise SourceError(f"list {listed.name}: no column {[column]}; none of its objects has that key")


def _require_lines(connection: duckdb.DuckDBPyConnection, listed: Listed) -> None:
    with listed.bytes() as stream:
        lines = sum(1 for line in stream if line.strip(b" \t\r\n"))
    read = _one(connection, "SELECT count(*) FROM list_rows")
    if read != lines:
        raise SourceError(
            f"list {listed.name}: {read} objects were read from {lines} lines; an object must stand in one line, and "
            "each line hold one object"
        )


def _pointer(key: str) -> str:
    """A JSON pointer (RFC 6901) to a key of the outermost object."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _one(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    return connection.execute(text).fetchall()[0][0]

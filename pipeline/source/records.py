"""JSON: values as they are written, or refused by name and type."""

from collections.abc import Mapping
from typing import Any

import duckdb

from pipeline.core import query
from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.fields import Field, Fields, Lines, attribute, refusal
from pipeline.source.listed import Listed, literal

# Types of JSON values that stand in a file as they do in a text, and those that may be carried along as one.
_TEXTS = ("VARCHAR", "BIGINT", "UBIGINT", "BOOLEAN")
_SCALARS = (*_TEXTS, "DOUBLE")


def insert_json(
    connection: duckdb.DuckDBPyConnection,
    listed: Listed,
    config: SourceConfig,
    *,
    list_index: int,
    types: Mapping[str, str] | None = None,
) -> Lines:
    """Objects of a list, one a line or in one array, into ``source_rows``, with attributes of the given types.

    Raises :class:`SourceError` for a key that no object has, and, unless those are skipped, for lines that are no
    object and values that are not of the kind that is asked for.
    """
    array = _is_array(listed)
    # Broken lines come as null, so that they can be counted. A broken array is no list.
    scan = (
        f"read_json_objects({listed.known_to(connection)}, format = '{'array' if array else 'newline_delimited'}', "
        f"ignore_errors = {str(not array).lower()}, compression = {literal(listed.compression or 'none')}, "
        "hive_partitioning = false)"
    )
    types = types or {}
    keys = [config.url_column, *config.captions, *types]
    try:
        connection.execute(_rows(scan, config, keys))
        if not array:
            _require_lines(connection, listed)
        refused = dict(
            connection.execute(
                "SELECT refused, count(*) FROM list_rows WHERE refused IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
            ).fetchall()
        )
        bad = sum(refused.values())
        good, fields = "(FROM list_rows WHERE refused IS NULL)", _json_fields(connection, config, keys, types)
        lost, reasons = fields.refused(connection, good)
        if bad + lost and not config.skip_bad_lines:
            raise refusal(listed, refused | reasons)
        _require_keys(connection, listed, keys)
        read = fields.insert(connection, good, listed, list_index=list_index)
        connection.execute("DROP TABLE list_rows")
    except duckdb.Error as error:
        raise SourceError(f"list {listed.name}: cannot be read: {str(error).splitlines()[0]}") from error
    return Lines(read, bad + lost)


def _rows(scan: str, config: SourceConfig, keys: list[str]) -> str:
    """The query that makes ``list_rows``: of each key ``v0``, ``v1`` ... the text, ``t0`` ... the type, and of those of
    captions ``m1`` ... the texts of an array."""
    columns, cases = [], []
    captions = range(1, 1 + len(config.captions))
    for place, key in enumerate(keys):
        pointer, kinds = literal(_pointer(key)), _SCALARS if place > captions[-1] else _TEXTS
        columns += [f"json ->> {pointer} AS v{place}", f"json_type(json, {pointer}) AS t{place}"]
        allowed = ", ".join(map(literal, (*kinds, "NULL", *(["ARRAY"] if place in captions else []))))
        cases.append(f"WHEN t{place} NOT IN ({allowed}) THEN concat({literal(key)}, ': ', t{place})")
        if place in captions:
            inner = f"CASE WHEN t{place} = 'ARRAY' THEN json_extract(json, {pointer}) END"
            columns += [f"{inner} ->> '$[*]' AS m{place}", f"json_type({inner}, '$[*]') AS k{place}"]
            texts = ", ".join(map(literal, (*_TEXTS, "NULL")))
            other = f"list_filter(k{place}, lambda kind: kind NOT IN ({texts}))"
            cases.append(f"WHEN len({other}) > 0 THEN concat({literal(key)}, ': ARRAY of ', {other}[1])")
    return query.sql("pipeline.source", "json_rows").format(
        scan=scan, columns=",\n       ".join(columns), cases="\n            ".join(cases)
    )


def _json_fields(
    connection: duckdb.DuckDBPyConnection, config: SourceConfig, keys: list[str], types: Mapping[str, str]
) -> Fields:
    values = [Field(name=key, raw=f"v{place}", value=f"v{place}") for place, key in enumerate(keys)]
    last = len(config.captions)
    captions = values[1 : 1 + last]
    # One text each is the rule, and quicker.
    arrays = " OR ".join(f"t{place} = 'ARRAY'" for place in range(1, 1 + last))
    if _one(connection, f"SELECT count(*) FROM list_rows WHERE {arrays}"):
        lists = (f"CASE WHEN t{place} = 'ARRAY' THEN m{place} ELSE [v{place}] END" for place in range(1, 1 + last))
        captions = [Field(name=f.name, raw=text, value=text, many=True) for f, text in zip(captions, lists)]
    attributes = [attribute(f.name, f.raw, f.value, "VARCHAR", types[f.name]) for f in values[1 + last :]]
    return Fields(url=values[0], captions=captions, attributes=attributes)


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


def _require_keys(connection: duckdb.DuckDBPyConnection, listed: Listed, keys: list[str]) -> None:
    counts = ", ".join(f"count(t{place})" for place in range(len(keys)))
    total, *found = connection.execute(f"SELECT count(*), {counts} FROM list_rows").fetchall()[0]
    for key, count in zip(keys, found):
        if total and not count:
            raise SourceError(f"list {listed.name}: no column {[key]}; none of its objects has that key")


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

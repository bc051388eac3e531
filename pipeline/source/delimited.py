"""CSV and TSV, read by Python's csv module: of what it is told nothing is left to guess, and lines keep their numbers.

DuckDB's reader is no faster here, judges line ends by the first rows whatever it is told, and loses its way where a
field in quotation marks has another line end than the file.
"""

import csv
import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import duckdb
import pyarrow as pa

from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.fields import Field, Fields, Lines, attribute
from pipeline.source.listed import Listed, literal

# Lines that go to DuckDB at a time, and lines that an error shows.
_BATCH, _SHOWN = 1 << 15, 3
# Characters of a field at most, a bound of the csv module; its own of 131,072 is less than some captions.
_FIELD = 1 << 28
# What is not of the encoding is read as these, which no text has.
_ESCAPED = frozenset(map(chr, range(0xDC80, 0xDD00)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """How lines are divided into fields. Empty ``quote``: none has a meaning."""

    delimiter: str
    quote: str
    escape: str | None

    @classmethod
    def of(cls, format_: str, config: SourceConfig) -> "Dialect":
        """That of the format (RFC 4180, or tabulators alone), as far as the config does not say otherwise."""
        return cls(
            delimiter=config.delimiter or ("," if format_ == "csv" else "\t"),
            quote=('"' if format_ == "csv" else "") if config.quote is None else config.quote,
            escape=config.escape,
        )

    def reader(self, stream: IO[str]) -> Any:
        """Python's reader of it."""
        options: dict[str, Any] = {"delimiter": self.delimiter, "escapechar": self.escape, "strict": True}
        if self.quote:
            options |= {"quotechar": self.quote, "doublequote": self.escape is None}
        csv.field_size_limit(_FIELD)
        return csv.reader(stream, quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE, **options)


class _Rows(NamedTuple):
    """Fields of some lines that are asked for, one after the other, and the numbers of those lines."""

    # No tuple for each line: Python looks through what holds other objects again and again.
    fields: list[str]
    numbers: list[int]

    def batch(self) -> pa.RecordBatch:
        """Columns ``c0``, ``c1`` ... and ``line``. An empty field has no value. Raises :class:`UnicodeEncodeError` for
        what is not of the encoding."""
        width = len(self.fields) // len(self.numbers)
        columns = [pa.array([f or None for f in self.fields[place::width]], pa.string()) for place in range(width)]
        names = [f"c{place}" for place in range(width)]
        return pa.record_batch([*columns, pa.array(self.numbers)], names=[*names, "line"])


class Table:
    """Lines of a list: batches of those that keep to the dialect, and of the others number, text and count."""

    def __init__(self, stream: IO[str], listed: Listed, config: SourceConfig, wanted: Sequence[str]):
        self._reader = Dialect.of(listed.format, config).reader(stream)
        self._config, self._listed = config, listed
        self.bad, self.first_bad = 0, list[str]()
        names = config.column_names or self._header()
        self._width = len(names)
        self._pick = operator.itemgetter(*(_place(names, name, listed) for name in wanted))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Raises :class:`SourceError` for a quotation mark that is never closed, and for the first lines that are not
        like the others unless those are skipped."""
        while (found := self._some()).numbers:
            try:
                yield found.batch()
            except UnicodeEncodeError:
                found = self._readable(found)
                if found.numbers:
                    yield found.batch()
        if self.bad and not self._config.skip_bad_lines:
            raise SourceError(
                f"list {self._listed.name}: {self.bad} lines are not like the others; {'; '.join(self.first_bad)}; "
                "source.skip_bad_lines drops and counts them"
            )

    def _header(self) -> list[str]:
        try:
            for row in self._reader:
                if row:
                    return list(row)
        except csv.Error as error:
            raise SourceError(f"list {self._listed.name}: cannot be read: header line: {error}") from error
        raise SourceError(f"list {self._listed.name}: cannot be read: it has no header line")

    def refuse(self, number: int, why: str, row: Sequence[str]) -> None:
        """Count a line, and keep what is wrong with it if it is one of the first."""
        self.bad += 1
        if len(self.first_bad) < _SHOWN:
            shown = "".join("\ufffd" if sign in _ESCAPED else sign for sign in " | ".join(row)[:100])
            self.first_bad.append(f"line {number}: {why}: {shown!r}")

    def _some(self) -> "_Rows":
        """The next lines that have as many fields as they must."""
        found, reader, width, pick = _Rows([], []), self._reader, self._width, self._pick
        while True:
            try:
                for row in reader:
                    if len(row) == width:
                        found.fields.extend(pick(row))
                        found.numbers.append(reader.line_num)
                        if len(found.numbers) == _BATCH:
                            return found
                    elif row:
                        self.refuse(reader.line_num, f"{len(row)} fields, not {width}", row)
            except csv.Error as error:
                if "end of data" in str(error):
                    raise SourceError(
                        f"list {self._listed.name}: a quotation mark is never closed, so that all lines after it are "
                        "one field"
                    ) from error
                self.refuse(reader.line_num, str(error), [])
            else:
                return found

    def _readable(self, found: "_Rows") -> "_Rows":
        """Those whose fields are of the encoding."""
        kept, width = _Rows([], []), len(found.fields) // len(found.numbers)
        for place, number in enumerate(found.numbers):
            row = found.fields[place * width : (place + 1) * width]
            if _ESCAPED.isdisjoint("".join(row)):
                kept.fields.extend(row)
                kept.numbers.append(number)
            else:
                self.refuse(number, f"not {self._config.encoding}; see source.encoding, such as latin-1", row)
        return kept


def insert_delimited(
    connection: duckdb.DuckDBPyConnection,
    listed: Listed,
    config: SourceConfig,
    *,
    list_index: int,
    types: Mapping[str, str] | None = None,
) -> Lines:
    """Rows of a list into ``source_rows``, with attributes of the given types. Lines without content are passed over.

    Raises :class:`SourceError` for a missing column, a quotation mark that is never closed, and a line with other than
    as many fields as the first one, with bytes that are not of the encoding, or a value that has not the type of a
    cast, unless such lines are skipped.
    """
    wanted = [config.url_column, *config.captions, *(types or {})]
    fields = _fields(wanted, len(config.captions), types or {})
    read = 0
    try:
        with listed.text(config.encoding, errors="surrogateescape") as stream:
            table = Table(stream, listed, config, wanted)
            for batch in table.batches():
                connection.register("batch", batch)
                _refuse_lost(connection, table, fields)
                read += fields.insert(connection, "batch", listed, list_index=list_index)
    except UnicodeError as error:
        raise SourceError(f"list {listed.name}: is not text in {config.encoding}: {error}") from error
    return Lines(read, table.bad)


def _refuse_lost(connection: duckdb.DuckDBPyConnection, table: Table, fields: Fields) -> None:
    """Count the lines of a batch whose values have not the type that they are to have."""
    cases = [
        (field.lost, literal(f"{field.name}: no {field.kind}"), field.raw) for field in fields.attributes if field.lost
    ]
    if not cases:
        return
    why, value = (" ".join(f"WHEN {case[0]} THEN {case[place]}" for case in cases) for place in (1, 2))
    lost = f"SELECT line, CASE {why} END AS why, CASE {value} END AS value FROM batch"
    for number, reason, text in connection.execute(f"FROM ({lost}) WHERE why IS NOT NULL ORDER BY line").fetchall():
        table.refuse(number, reason, (text,))


def _fields(wanted: Sequence[str], captions: int, types: Mapping[str, str]) -> Fields:
    values = [Field(name=name, raw=f"c{place}", value=f"c{place}") for place, name in enumerate(wanted)]
    attributes = [attribute(f.name, f.raw, f.value, "VARCHAR", types[f.name]) for f in values[1 + captions :]]
    return Fields(url=values[0], captions=values[1 : 1 + captions], attributes=attributes)


def _place(names: Sequence[str], wanted: str, listed: Listed) -> int:
    found = [number for number, name in enumerate(names) if name == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(f"list {listed.name}: {len(found)} columns are named {wanted!r}")
    hint = ""
    if any(name.startswith('"') for name in names):
        hint = """; if its fields are quoted, set source.quote: '"'"""
    elif any(not _ESCAPED.isdisjoint(name) or "\0" in name for name in names):
        hint = "; that is another encoding: set source.encoding, such as utf-16"
    elif any(name.lower().startswith(("http://", "https://")) for name in names):
        hint = "; that is no header line: name the columns by source.column_names"
    shown = [name.encode("utf-8", "replace").decode()[:80] for name in names]
    raise SourceError(f"list {listed.name}: no column {[wanted]}; it has {shown}{hint}")

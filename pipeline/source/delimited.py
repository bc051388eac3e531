"""CSV and TSV, read by Python's csv module: of what it is told nothing is left to guess, and lines keep their numbers.

DuckDB's reader is no faster here, judges line ends by the first rows whatever it is told, and loses its way where a
field in quotation marks has another line end than the file.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import duckdb
import pyarrow as pa

from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.listed import Listed

_PAIRS = pa.schema([("url", pa.string()), ("caption", pa.string())])
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


class _Pairs(NamedTuple):
    """Fields of some lines, and the numbers of those lines."""

    urls: list[str]
    captions: list[str]
    numbers: list[int]

    def batch(self) -> pa.RecordBatch:
        """An empty field has no value. Raises :class:`UnicodeEncodeError` for what is not of the encoding."""
        columns = [pa.array([field or None for field in fields], pa.string()) for fields in self[:2]]
        return pa.record_batch(columns, schema=_PAIRS)


class Table:
    """Lines of a list: batches of pairs of those that keep to the dialect, and of the others number, text and count."""

    def __init__(self, stream: IO[str], listed: Listed, config: SourceConfig):
        self._reader = Dialect.of(listed.format, config).reader(stream)
        self._config, self._listed = config, listed
        self.bad, self.first_bad = 0, list[str]()
        names = config.columns or self._header()
        self._width = len(names)
        self._places = [_place(names, name, listed) for name in (config.url_column, config.caption_column)]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Raises :class:`SourceError` for a quotation mark that is never closed, and for the first lines that are not
        like the others unless those are skipped."""
        while (found := self._some()).numbers:
            try:
                yield found.batch()
            except UnicodeEncodeError:
                yield self._readable(found).batch()
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

    def _some(self) -> "_Pairs":
        """The next lines that have as many fields as they must."""
        found, reader, width = _Pairs([], [], []), self._reader, self._width
        url, caption = self._places
        while True:
            try:
                for row in reader:
                    if len(row) == width:
                        found.urls.append(row[url])
                        found.captions.append(row[caption])
                        found.numbers.append(reader.line_num)
                        if len(found.numbers) == _BATCH:
                            return found
                    elif row:
                        self._refuse(reader.line_num, f"{len(row)} fields, not {width}", row)
            except csv.Error as error:
                if "end of data" in str(error):
                    raise SourceError(
                        f"list {self._listed.name}: a quotation mark is never closed, so that all lines after it are "
                        "one field"
                    ) from error
                self._refuse(reader.line_num, str(error), [])
            else:
                return found

    def _readable(self, found: "_Pairs") -> "_Pairs":
        """Those whose URL and caption are of the encoding."""
        kept = []
        for url, caption, number in zip(*found):
            if _ESCAPED.isdisjoint(url + caption):
                kept.append((url, caption, number))
            else:
                why = f"not {self._config.encoding}; see source.encoding, such as latin-1"
                self._refuse(number, why, (url, caption))
        return _Pairs(*map(list, zip(*kept))) if kept else _Pairs([], [], [])

    def _refuse(self, number: int, why: str, row: Sequence[str]) -> None:
        self.bad += 1
        if len(self.first_bad) < _SHOWN:
            shown = "".join("\ufffd" if sign in _ESCAPED else sign for sign in " | ".join(row)[:100])
            self.first_bad.append(f"line {number}: {why}: {shown!r}")


def insert_delimited(
    connection: duckdb.DuckDBPyConnection, listed: Listed, config: SourceConfig, *, list_index: int
) -> int:
    """Rows of a list into ``source_rows``; returns how many lines were dropped. Lines without content are passed over.

    Raises :class:`SourceError` for a missing column, a quotation mark that is never closed, and a line with other than
    as many fields as the first one, or with bytes that are not of the encoding, unless such lines are skipped.
    """
    try:
        with listed.text(config.encoding, errors="surrogateescape") as stream:
            table = Table(stream, listed, config)
            for batch in table.batches():
                connection.register("batch", batch)
                connection.execute(f"INSERT INTO source_rows SELECT url, caption, {list_index} FROM batch")
    except UnicodeError as error:
        raise SourceError(f"list {listed.name}: is not text in {config.encoding}: {error}") from error
    return table.bad


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
        hint = "; that is no header line: name the columns by source.columns"
    shown = [name.encode("utf-8", "replace").decode()[:80] for name in names]
    raise SourceError(f"list {listed.name}: no column {[wanted]}; it has {shown}{hint}")

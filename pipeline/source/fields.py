"""What is taken of a list, in SQL: one URL, one or several captions and the carried columns of each row."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb

from pipeline.core.errors import SourceError
from pipeline.source.carried import identifier
from pipeline.source.config import SourceConfig
from pipeline.source.listed import Listed

_REASONS_SHOWN, _CHARACTERS_SHOWN = 8, 100


class Lines(NamedTuple):
    """Rows of a list that were read, and those that were dropped as they could not be."""

    read: int
    bad: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A column: ``raw`` as it is there, ``value`` as what it is to be, null where it cannot be that. ``kind`` says what
    it is to be; ``many`` stands for a list of texts."""

    name: str
    raw: str
    value: str
    kind: str = "text"
    many: bool = False

    @property
    def lost(self) -> str | None:
        """Whether a row's value is not what it is to be, as a condition; none where all are."""
        return None if self.raw == self.value else f"({self.value} IS NULL AND {self.raw} IS NOT NULL)"


def attribute(name: str, raw: str, text: str, own: str, type_: str) -> Field:
    """A carried column whose readable form ``text`` has the type ``own``."""
    return Field(name=name, raw=raw, value=text if own == type_ else f"TRY_CAST({text} AS {type_})", kind=type_)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """The columns of a list."""

    url: Field
    captions: Sequence[Field]
    attributes: Sequence[Field] = ()

    @property
    def several(self) -> bool:
        """Whether a row may give other than one caption."""
        return len(self.captions) > 1 or self.captions[0].many

    def refused(self, connection: duckdb.DuckDBPyConnection, scan: str) -> tuple[int, dict[str, int]]:
        """How many rows have a value that is not what it is to be, and of which kinds those are."""
        fields = [field for field in (self.url, *self.captions, *self.attributes) if field.lost]
        if not fields:
            return 0, {}
        wanted = ", ".join(
            f"count(*) FILTER ({field.lost}), min({field.raw}::VARCHAR) FILTER ({field.lost})" for field in fields
        )
        condition = " OR ".join(str(field.lost) for field in fields)
        total, *rest = connection.execute(f"SELECT count(*) FILTER ({condition}), {wanted} FROM {scan}").fetchall()[0]
        reasons = {
            f"{field.name}: no {field.kind}, such as {example[:_CHARACTERS_SHOWN]!r}": count
            for field, count, example in zip(fields, rest[::2], rest[1::2])
            if count
        }
        return total, reasons

    def insert(self, connection: duckdb.DuckDBPyConnection, scan: str, listed: Listed, *, list_index: int) -> int:
        """The rows that are not refused into ``source_rows``; returns how many rows they are.

        A row is there once for each of its captions, and once without if it has none. Raises :class:`SourceError` if
        other than these have come.
        """
        conditions = [f"NOT {f.lost}" for f in (self.url, *self.captions, *self.attributes) if f.lost]
        source = f"{scan} WHERE {' AND '.join(conditions)}" if conditions else scan
        caption = f"unnest({self._list()})" if self.several else self.captions[0].value
        names, values = "url, caption, list_index", f"{self.url.value}, {caption}, {list_index}"
        if self.attributes:
            names, values = f"{names}, attributes", f"{values}, {self._struct()}"
        inserted = _one(connection, f"INSERT INTO source_rows ({names}) SELECT {values} FROM {source}")
        if not self.several:
            return int(inserted)
        rows, expected = connection.execute(
            f"SELECT count(*), coalesce(sum(len({self._list()})), 0) FROM {source}"
        ).fetchall()[0]
        if inserted != expected:
            raise SourceError(f"list {listed.name}: {inserted} captions were read of {expected}")
        return int(rows)

    def _list(self) -> str:
        """All captions of a row; one that is null in place of none."""
        lists = ", ".join(field.value if field.many else f"[{field.value}]" for field in self.captions)
        return f"coalesce(nullif(flatten([{lists}]), []), [NULL])"

    def _struct(self) -> str:
        # -0 equals 0, but has other bytes: which of two equal rows comes first must make no difference.
        values = (f"{f.value} + 0::{f.kind}" if f.kind in ("FLOAT", "DOUBLE") else f.value for f in self.attributes)
        pairs = (f"{identifier(f.name)} := {value}" for f, value in zip(self.attributes, values))
        return f"struct_pack({', '.join(pairs)})"


def attribute_types(
    found: Sequence[Listed], config: SourceConfig, own: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Types of the carried columns, in which all lists must agree; ``own`` has those of each list of Parquet by its
    name, the others hold text."""
    types: dict[str, str] = {}
    for column in config.carried:
        holds = {listed.name: column.type or own.get(listed.name, {}).get(column.name, "VARCHAR") for listed in found}
        first = next(iter(holds))
        for name, type_ in holds.items():
            if type_ != holds[first]:
                raise SourceError(
                    f"lists {first} and {name}: column {column.name!r} is {holds[first]} in the one and {type_} in the "
                    f"other; write its type in source.columns, such as {column.name}::VARCHAR"
                )
        types[column.name] = holds[first]
    return types


def refusal(listed: Listed, refused: Mapping[str, int]) -> SourceError:
    what = ", ".join(f"{count} of {reason}" for reason, count in list(refused.items())[:_REASONS_SHOWN])
    return SourceError(
        f"list {listed.name}: rows whose values are not of the kind that is asked for: {what}; source.skip_bad_lines "
        "drops and counts them"
    )


def _one(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    return connection.execute(text).fetchall()[0][0]

"""Columns of lists that are carried along: ``name``, or ``name::TYPE`` for a cast of DuckDB's."""

import dataclasses
import re
from collections.abc import Sequence

# No others: of these each value has one text, and they are the same in DuckDB, Arrow and Parquet.
_TYPES = (
    *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    *("FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP"),
)
_DECIMAL = re.compile(r"DECIMAL\(([1-9]\d?), ?(\d\d?)\)")
# What `source_pairs` has; DuckDB's names have no case.
_TAKEN = ("sample_id", "image_id", "url", "caption")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carried:
    """A column by its exact name; no ``type`` means the one that the lists have."""

    name: str
    type: str | None


def parse_carried(texts: Sequence[str]) -> tuple[Carried, ...]:
    """Raises :class:`ValueError` for an unknown type, a name that ``source_pairs`` has, and two that are one to
    DuckDB."""
    found = tuple(map(_parse, texts))
    for column in found:
        if column.name.lower() in _TAKEN:
            raise ValueError(f"columns: {column.name!r} would be a second column {column.name.lower()!r}")
        same = [other.name for other in found if other.name.lower() == column.name.lower()]
        if len(same) > 1:
            raise ValueError(f"columns names one twice: {same}; case makes no difference in a table")
    return found


def identifier(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _parse(text: str) -> Carried:
    name, separator, type_ = text.rpartition("::")
    if not separator:
        name, type_ = text, ""
    if not name or "\0" in name:
        raise ValueError(f"columns: {text!r} has no name of a column")
    if not separator:
        return Carried(name=name, type=None)
    decimal = _DECIMAL.fullmatch(type_)
    if decimal and int(decimal[2]) <= int(decimal[1]) <= 38:
        return Carried(name=name, type=f"DECIMAL({decimal[1]},{decimal[2]})")
    if type_ not in _TYPES:
        raise ValueError(f"columns: {text!r}: expected one of {', '.join(_TYPES)}, DECIMAL(p,s) after `::`")
    return Carried(name=name, type=type_)

"""Blocklists: pairs that must not be used, named by id or by URL, for example on request of who is in the picture."""

import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.balance.facts import columns_of_facts
from pipeline.core import query
from pipeline.core.errors import BlocklistError
from pipeline.core.files import file_digest

_ID = re.compile(r"[+-]?\d{1,19}")
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_IDS = ("sample_id", "image_id")
_COLUMNS = (*_IDS, "url")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockedCounts:
    """Different ``entries`` of the lists, how many of them fit no image (``unmatched``), and images ``blocked``."""

    entries: int
    unmatched: int
    blocked: int


def blocklist_digests(files: Sequence[Path | str]) -> list[str]:
    """Hashes of what the files hold, whatever their names and order; :class:`BlocklistError` if one is missing."""
    return sorted({file_digest(path) for path in _present(files)})


def block(connection: duckdb.DuckDBPyConnection, files: Sequence[Path | str]) -> BlockedCounts:
    """Make the table ``blocked`` (``image_id, matched``) of the images in the view ``embeddings`` that are listed.

    A Parquet or CSV file has a column ``sample_id``, ``image_id`` or ``url``, or several; any other file is text with
    one id or one http(s) URL a line, where empty lines and those that begin with # are passed over. A pair that is
    listed blocks its image. URLs are compared as they stand, without blanks around them, with those of
    ``facts``. Raises :class:`BlocklistError` for a file that is missing, unreadable, without a usable column or entry,
    for URLs that nothing is known of, and if no image is left.
    """
    connection.execute(query.sql("pipeline.balance", "blocklist_tables"))
    for path in _present(files):
        _read(connection, path)
    urls = _count(connection, "listed_urls")
    if urls and "url" not in columns_of_facts(connection):
        raise BlocklistError(f"the blocklist names {urls} URLs, but nothing says which image has which: no column url")
    if urls:
        connection.execute(query.sql("pipeline.balance", "block_urls"))
    connection.execute(query.sql("pipeline.balance", "block_ids"))
    counts = query.one(connection, query.sql("pipeline.balance", "blocked_counts"), {})
    assert counts is not None
    if counts["blocked"] == counts.pop("images"):
        raise BlocklistError(f"the blocklist blocks all {counts['blocked']} images")
    return BlockedCounts(**counts)


def _present(files: Sequence[Path | str]) -> list[Path]:
    paths = [Path(file) for file in files]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise BlocklistError(f"{len(missing)} of {len(paths)} blocklist files are missing, e.g. {missing[0]}")
    return paths


def _read(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Add one file's entries to ``listed_ids`` and ``listed_urls``."""
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            rows = connection.read_parquet(str(path), hive_partitioning=False)
        elif ending == ".csv":
            rows = connection.from_arrow(_read_csv(path))
        else:
            rows = connection.from_arrow(_read_text(path))
        _add(rows, path)
    except duckdb.Error as error:
        raise BlocklistError(f"blocklist {path}: cannot be read: {error}") from error


def _read_csv(path: Path) -> pa.Table:
    """Columns of an RFC 4180 file as text; one line that is not like the first is an error, for it may be a request."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            rows = []
            for row in filter(None, reader):
                if len(row) != len(names):
                    raise BlocklistError(
                        f"blocklist {path}: line {reader.line_num} has {len(row)} fields, the first one {len(names)}"
                    )
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BlocklistError(f"blocklist {path}: cannot be read as CSV in UTF-8: {error}") from error
    if len(set(names)) < len(names):
        raise BlocklistError(f"blocklist {path}: one of its columns is there twice: {names}")
    return pa.table({name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)})


def _read_text(path: Path) -> pa.Table:
    try:
        # Not by all that Python takes for line ends, such as U+2028.
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise BlocklistError(f"blocklist {path}: neither Parquet nor CSV by its name, and no UTF-8 text") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    ids = [entry for entry in entries if _ID.fullmatch(entry)]
    urls = [entry for entry in entries if _URL.fullmatch(entry)]
    strange = [entry for entry in entries if not (_ID.fullmatch(entry) or _URL.fullmatch(entry))]
    if strange:
        raise BlocklistError(
            f"blocklist {path}: {len(strange)} of {len(entries)} lines are neither an id nor an http(s) URL, "
            f"e.g. {strange[0][:80]!r}"
        )
    empty = [None] * max(len(ids), len(urls))
    return pa.table(
        {
            "sample_id": pa.array((ids + empty)[: len(empty)], pa.string()),
            "url": pa.array((urls + empty)[: len(empty)], pa.string()),
        }
    )


def _add(rows: duckdb.DuckDBPyRelation, path: Path) -> None:
    usable = [name for name in _COLUMNS if name in rows.columns]
    if not usable:
        raise BlocklistError(f"blocklist {path}: no column sample_id, image_id or url; it has {rows.columns}")
    listed = 0
    for name in usable:
        values = rows.filter(f"trim(\"{name}\"::VARCHAR) <> ''").project(f'trim("{name}"::VARCHAR) AS entry')
        if name in _IDS:
            values = values.project("entry, try_cast(entry AS BIGINT) AS id")
            wrong, example = values.filter("id IS NULL").aggregate("count(*), min(entry)").fetchall()[0]
            if wrong:
                raise BlocklistError(f"blocklist {path}: {wrong} values of {name} are no 64-bit integer: {example!r}")
            values.project("id").insert_into("listed_ids")
        else:
            values.insert_into("listed_urls")
        listed += values.aggregate("count(*)").fetchall()[0][0]
    if not listed:
        raise BlocklistError(f"blocklist {path}: not one entry in {' and '.join(usable)}")


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.table(table).aggregate("count(*)").fetchall()[0][0])

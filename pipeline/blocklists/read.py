"""Blocklists: what must not be used, by request of who is in the picture for example. Files in, entries out.

An entry is one of six kinds: the id of an image or of a pair, a URL, a host, or the SHA-256 or MD5 of an image's bytes
as they were served. What a value is says its column; in text its form does, which is why a host has to say so itself.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.blocklists.hosts import normal_host
from pipeline.core.errors import BlocklistError
from pipeline.core.files import file_digest

_ID = re.compile(r"[+-]?\d{1,19}")
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_HASHES = {"sha256": re.compile(r"[0-9a-fA-F]{64}"), "md5": re.compile(r"[0-9a-fA-F]{32}")}
_HOST = "host:"
_IDS = ("sample_id", "image_id")
_COLUMNS = (*_IDS, "url", "sha256", "md5", "host")
_NO_VALUE = {
    "sha256": "no 64 hexadecimal digits",
    "md5": "no 32 hexadecimal digits",
    "host": "no host name, which has no scheme, port or path",
}


def blocklist_digests(files: Sequence[Path | str]) -> list[str]:
    """Hashes of what the files hold, whatever their names and order; :class:`BlocklistError` if one is missing."""
    return sorted({file_digest(path) for path in _present(files)})


def read_blocklists(connection: duckdb.DuckDBPyConnection, files: Sequence[Path | str]) -> None:
    """Add the entries of all files to the tables ``listed_ids`` (``id``) and ``listed_texts`` (``kind, entry``).

    Raises :class:`BlocklistError` for a file that is missing, unreadable, or without a usable column or entry.
    """
    for path in _present(files):
        _read(connection, path)


def _present(files: Sequence[Path | str]) -> list[Path]:
    paths = [Path(file) for file in files]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise BlocklistError(f"{len(missing)} of {len(paths)} blocklist files are missing, e.g. {missing[0]}")
    return paths


def _read(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Add one file's entries."""
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            rows = connection.read_parquet(str(path), hive_partitioning=False)
        elif ending == ".csv":
            rows = connection.from_arrow(_read_csv(path))
        else:
            rows = connection.from_arrow(_read_text(path))
        _add(rows, path, connection)
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
    columns: dict[str, list[str]] = {}
    strange = []
    for line in lines:
        if line and not line.startswith("#"):
            kind = _kind(line)
            strange += [] if kind else [line]
            columns.setdefault(kind, []).append(line[len(_HOST) :] if kind == "host" else line)
    if strange:
        count = sum(map(len, columns.values()))
        raise BlocklistError(
            f"blocklist {path}: {len(strange)} of {count} lines are neither an id, an http(s) URL, a SHA-256 "
            f"(64 hexadecimal digits), an MD5 (32) nor a host (host:example.com), e.g. {strange[0][:80]!r}"
        )
    longest = max(map(len, columns.values()), default=0)
    columns = columns or {_IDS[0]: []}
    return pa.table(
        {kind: pa.array([*values, *[None] * (longest - len(values))], pa.string()) for kind, values in columns.items()}
    )


def _kind(line: str) -> str:
    """The column that a line of text belongs to; empty if it is none of them."""
    if _ID.fullmatch(line):
        return _IDS[0]
    if _URL.fullmatch(line):
        return "url"
    if line.lower().startswith(_HOST):
        return "host"
    return next((kind for kind, digits in _HASHES.items() if digits.fullmatch(line)), "")


def _add(rows: duckdb.DuckDBPyRelation, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    usable = [name for name in _COLUMNS if name in rows.columns]
    if not usable:
        raise BlocklistError(f"blocklist {path}: no column {', '.join(_COLUMNS[:-1])} or host; it has {rows.columns}")
    listed = 0
    for name in usable:
        values = rows.filter(f"trim(\"{name}\"::VARCHAR) <> ''").project(f'trim("{name}"::VARCHAR) AS entry')
        if name in _IDS:
            values = values.project("entry, try_cast(entry AS BIGINT) AS id")
            _check(values.filter("id IS NULL"), path, name, "no 64-bit integer")
            values.project("id").insert_into("listed_ids")
        elif name == "host":
            _add_hosts(values, path, connection)
        elif name == "url":
            values.project("'url' AS kind, entry").insert_into("listed_texts")
        else:
            digits = _HASHES[name].pattern
            _check(values.filter(f"NOT regexp_full_match(entry, '{digits}')"), path, name, _NO_VALUE[name])
            values.project(f"'{name}' AS kind, lower(entry) AS entry").insert_into("listed_texts")
        listed += values.aggregate("count(*)").fetchall()[0][0]
    if not listed:
        raise BlocklistError(f"blocklist {path}: not one entry in {' and '.join(usable)}")


def _add_hosts(values: duckdb.DuckDBPyRelation, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    written = values.distinct().to_arrow_table()["entry"].to_pylist()
    hosts = {entry: normal_host(entry) for entry in written}
    bad = sorted(entry for entry, host in hosts.items() if not host)
    if bad:
        raise BlocklistError(f"blocklist {path}: {len(bad)} values of host are {_NO_VALUE['host']}: {bad[0]!r}")
    kept = sorted(set(hosts.values()))
    table = pa.table({"kind": pa.array(["host"] * len(kept), pa.string()), "entry": pa.array(kept, pa.string())})
    connection.from_arrow(table).insert_into("listed_texts")


def _check(wrong: duckdb.DuckDBPyRelation, path: Path, name: str, what: str) -> None:
    count, example = wrong.aggregate("count(*), min(entry)").fetchall()[0]
    if count:
        raise BlocklistError(f"blocklist {path}: {count} values of {name} are {what}: {example!r}")

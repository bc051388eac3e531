"""Keep-lists as DataComp has them: files of ``uid``, outside of which no pair is used.

A ``uid`` is 128 bits, 32 hexadecimal digits in tables; in a ``.npy`` file a record of two unsigned 64-bit numbers, the
first half and the second. DataComp's tools search such files by bisection, so they are written in ascending order.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.core.files import file_digest

UID = np.dtype("u8,u8")
"""A ``uid`` in a ``.npy`` file."""

_DIGITS = "[0-9a-fA-F]{32}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepCounts:
    """Different ``entries`` of the lists, and pairs that are ``unlisted``, of all ``pairs``."""

    entries: int
    pairs: int
    unlisted: int


def keep_list_digests(files: Sequence[Path | str]) -> list[str]:
    """Hashes of what the files hold, whatever their names and order; :class:`ConfigError` if one is missing."""
    return sorted({file_digest(path) for path in _present(files)})


def unlisted_rows(connection: duckdb.DuckDBPyConnection, files: Sequence[Path | str], relation: str) -> KeepCounts:
    """Make the table ``unlisted`` (``sample_id, image_id``) of the pairs whose ``uid`` is in none of the files.

    ``relation``: a table or view with ``sample_id``, ``image_id`` and ``uid``. Files are ``.npy`` of records ``u8,u8``,
    Parquet with a column ``uid``, or text with one uid a line. Raises :class:`ConfigError` for a file that is missing,
    unreadable or holds no uid, where pairs have no column ``uid``, and if not one pair is listed.
    """
    connection.execute("CREATE OR REPLACE TEMP TABLE keep_uids (high UBIGINT, low UBIGINT)")
    for path in _present(files):
        _load(connection, path)
    if "uid" not in connection.table(relation).columns:
        raise ConfigError("a keep-list names pairs by uid, which nothing says of these: add uid to source.columns")
    connection.execute(query.sql("pipeline.blocklists", "unlisted").format(relation=relation))
    counts = query.one(
        connection,
        "SELECT (SELECT count(*) FROM (SELECT DISTINCT * FROM keep_uids)) AS entries, "
        f"(SELECT count(*) FROM {relation}) AS pairs, (SELECT count(*) FROM unlisted) AS unlisted",
        {},
    )
    assert counts is not None
    if counts["unlisted"] == counts["pairs"]:
        raise ConfigError(f"the keep-list names none of the {counts['pairs']} pairs by its {counts['entries']} uids")
    return KeepCounts(**counts)


def add_uids(connection: duckdb.DuckDBPyConnection, relation: str, table: str) -> None:
    """Add the halves of every uid of a relation, 32 hexadecimal digits or null, to a table (``high, low`` UBIGINT)."""
    connection.execute(query.sql("pipeline.blocklists", "load_uids").format(relation=relation, table=table))


def write_uids(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> int:
    """Write each uid of a table (``high, low``) once, in ascending order, as ``.npy``; returns their number.

    Within DuckDB's limit of memory: the file is filled as it is mapped.
    """
    connection.execute(f"CREATE OR REPLACE TEMP TABLE distinct_uids AS SELECT DISTINCT high, low FROM {table}")
    count = int(connection.table("distinct_uids").aggregate("count(*)").fetchall()[0][0])
    if not count:
        np.save(path, np.empty(0, UID))
        return 0
    array = np.lib.format.open_memmap(path, mode="w+", dtype=UID, shape=(count,))
    place = 0
    for batch in query.stream(connection, "SELECT high, low FROM distinct_uids ORDER BY high, low", {}):
        rows = slice(place, place + batch.num_rows)
        for field, name in zip(("f0", "f1"), ("high", "low")):
            array[field][rows] = batch.column(name).to_numpy()
        place += batch.num_rows
    array.flush()
    return count


def _present(files: Sequence[Path | str]) -> list[Path]:
    paths = [Path(file) for file in files]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"{len(missing)} of {len(paths)} keep-lists are missing, e.g. {missing[0]}")
    return paths


def _load(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    if path.suffix.lower() == ".npy":
        array = _read_npy(path)
        rows = connection.from_arrow(pa.table({"high": array["f0"], "low": array["f1"]}))
        if not len(array):
            raise ConfigError(f"keep-list {path}: not one uid")
        rows.insert_into("keep_uids")
        return
    try:
        if path.suffix.lower() == ".parquet":
            rows = connection.read_parquet(str(path), hive_partitioning=False)
            if "uid" not in rows.columns:
                raise ConfigError(f"keep-list {path}: no column uid; it has {rows.columns}")
            rows = rows.project("trim(uid::VARCHAR) AS uid").filter("uid <> ''")
        else:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
            named = pa.array([line for line in lines if line and not line.startswith("#")], pa.string())
            rows = connection.from_arrow(pa.table({"uid": named}))
        wrong, example, count = rows.aggregate(
            f"count(*) FILTER (NOT regexp_full_match(uid, '{_DIGITS}')), "
            f"min(uid) FILTER (NOT regexp_full_match(uid, '{_DIGITS}')), count(*)"
        ).fetchall()[0]
        if wrong or not count:
            fault = (
                f"{wrong} of {count} uids are no 32 hexadecimal digits: {example[:80]!r}" if wrong else "not one uid"
            )
            raise ConfigError(f"keep-list {path}: {fault}")
        connection.register("listed_uids", rows)
        add_uids(connection, "listed_uids", "keep_uids")
        connection.unregister("listed_uids")
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise ConfigError(
            f"keep-list {path}: neither .npy nor Parquet by its name, and no text, or a damaged one: {error}"
        ) from error


def _read_npy(path: Path) -> np.ndarray:
    """The records of a file, which are not read before they are asked for."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ConfigError(f"keep-list {path}: cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != UID:
        kind = getattr(array, "dtype", type(array).__name__)
        raise ConfigError(f"keep-list {path}: expected a list of records u8,u8, got {kind}")
    return array

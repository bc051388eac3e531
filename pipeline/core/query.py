"""DuckDB, the way every stage uses it: in memory, over Parquet, with limits, and with queries that have names."""

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core import parquet
from pipeline.core.disk import REFUSED
from pipeline.core.errors import ShardError
from pipeline.core.settings import Section, Size, runtime


class QueryConfig(Section):
    """Limits of every DuckDB connection."""

    memory_limit: Size = runtime(
        Size(2 * 10**9), "Memory that one DuckDB connection may use before it spills to disk.", gt=0
    )
    threads: int = runtime(0, "Threads of one DuckDB connection; 0 means one per core.", ge=0)


_BATCH_ROWS = 65_536
# What DuckDB raises for some damaged files, without saying which.
_WITHOUT_A_NAME = (duckdb.Error, duckdb.InvalidInputException)


@contextlib.contextmanager
def connect(config: QueryConfig, *, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory connection that spills to a folder under ``scratch``, which is removed at the end.

    A database file is not used on purpose: DuckDB locks it against every other process, readers too.
    """
    with (
        _folder_to_spill(scratch) as folder,
        duckdb.connect(config={"memory_limit": str(config.memory_limit), "temp_directory": folder}) as connection,
    ):
        if config.threads:
            connection.execute(f"SET threads = {config.threads}")
        connection.execute("SET enable_progress_bar = false")
        # A moment with a time zone is a date and an hour by this one, whatever that of the machine is.
        connection.execute("SET TimeZone = 'UTC'")
        with _decoding({}):
            yield connection


def _folder_to_spill(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    """Under ``scratch``; where that may only be read, as in an archived root, in the system's temporary folder."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="duckdb-", dir=scratch)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return tempfile.TemporaryDirectory(prefix="duckdb-")


@contextlib.contextmanager
def _decoding(parameters: dict[str, Any]) -> Iterator[None]:
    """A damaged file that DuckDB names, or else one of those that it was given, becomes an error that blames it."""
    try:
        yield
    except duckdb.Error as error:
        paths = [Path(name) for name in re.findall(r'file "([^"]+\.parquet)"', str(error))]
        if not paths and type(error) in _WITHOUT_A_NAME:
            given = [value if isinstance(value, list) else [value] for value in parameters.values()]
            paths = [Path(name) for names in given for name in names if str(name).endswith(".parquet")]
        for path in paths:
            fault = parquet.fault_of(path)
            if fault:
                raise ShardError(fault, damaged=path) from error
        raise


def sql(package: str, name: str) -> str:
    """The text of the query ``<package>/sql/<name>.sql``; the package is named as in an import."""
    return resources.files(package).joinpath("sql", f"{name}.sql").read_text()


def identifier(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[Path]) -> None:
    """Let queries read Parquet files under a name; a view cannot be made with parameters."""
    connection.read_parquet(files(paths), hive_partitioning=False).create_view(name)


def files(paths: list[Path] | tuple[Path, ...]) -> list[str]:
    """Paths as a query parameter for ``read_parquet``."""
    return [str(path) for path in paths]


def stream(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: dict[str, Any],
    schema: pa.Schema | None = None,
    *,
    rows: int = _BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Batches of about ``rows`` rows of a query's result, in its order, cast to ``schema`` if one is given."""
    with _decoding(parameters):
        for batch in connection.sql(query, params=parameters).to_arrow_reader(rows):
            yield (
                batch
                if schema is None
                else pa.RecordBatch.from_arrays(
                    [batch.column(field.name).cast(field.type) for field in schema], schema=schema
                )
            )


def cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly ``rows`` rows, the last one of what is left."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(held)


def one(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """The first row of a query's result by column name, or none."""
    with _decoding(parameters):
        result = connection.execute(query, parameters)
        # Fetched to the end: DuckDB refuses the next query while a result is open.
        rows = result.fetchall()
    return dict(zip([column[0] for column in result.description], rows[0])) if rows else None


def write(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any], path: Path, schema: pa.Schema
) -> int:
    """Write a query's result as Parquet with exactly ``schema`` and return the number of its rows."""
    rows = 0
    with parquet.writer(path, schema, compression="zstd") as file:
        for batch in stream(connection, query, parameters, schema):
            file.write_batch(batch)
            rows += batch.num_rows
    return rows

"""Parquet that tells of damage: a checksum of every page is written, and compared when the page is read.

Without it a flipped bit in a vector is a number like any other. Files of earlier versions have no checksums and are
read as they are. The bytes of a file depend on its content alone, checksums included.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import PipelineError, ShardError

# How Thrift's compact protocol begins a 32-bit number in the field after the last one.
_NEXT_I32 = 0x15


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """:func:`pyarrow.parquet.write_table` with checksums."""
    pq.write_table(table, path, write_page_checksum=True, **options)


def writer(path: Path, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """:class:`pyarrow.parquet.ParquetWriter` with checksums."""
    return pq.ParquetWriter(path, schema, write_page_checksum=True, **options)


def read_table(path: Path, **options: Any) -> pa.Table:
    """A table of one file; :class:`ShardError` that names the file if it is damaged."""
    with reading(path):
        return pq.read_table(path, page_checksum_verification=True, partitioning=None, **options)


def open_file(path: Path, **options: Any) -> pq.ParquetFile:
    """A file to be read in parts, within :func:`reading`."""
    return pq.ParquetFile(path, page_checksum_verification=True, **options)


@contextlib.contextmanager
def reading(path: Path, kind: type[PipelineError] = ShardError) -> Iterator[None]:
    """What pyarrow says of damage in ``path`` becomes an error of this ``kind`` that names the file as damaged."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # What the system says is not of the bytes: it has a number or a type. A column asked for in vain is no damage.
        system = isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)
        if system or isinstance(error, MemoryError) or "FieldRef" in str(error):
            raise
        raise kind(f"{path}: not a readable Parquet file, or a damaged one: {error}", damaged=path) from error


def has_checksums(path: Path) -> bool:
    """Whether the first page of a file has a checksum. pyarrow does not tell, so its header is read: three numbers of
    Thrift's compact protocol, then the checksum, if there is one, or a structure."""
    with path.open("rb") as file:
        metadata = pq.read_metadata(file)
        if not metadata.num_rows:
            return False
        column = metadata.row_group(0).column(0)
        file.seek(column.dictionary_page_offset or column.data_page_offset)
        header = file.read(64)
    place = 0
    for _ in range(3):
        place += 1
        while header[place] & 0x80:
            place += 1
        place += 1
    return header[place] == _NEXT_I32


def fault_of(path: Path) -> str | None:
    """Read a file to its end; why that cannot be done, if it cannot."""
    try:
        with reading(path):
            for _ in open_file(path, pre_buffer=False).iter_batches():
                pass
    except (OSError, MemoryError, ShardError) as error:
        return str(error)
    return None

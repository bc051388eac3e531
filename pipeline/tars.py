"""WebDataset tars with random access: an index of where each sample lies, and reading one sample.

A sample is a run of consecutive members that share a key, the part of the name before its first dot. The index
(``schema.TAR_INDEX``) lets stages and the trainer read samples in any order, so that no order has to be baked into
the tars: order stays a matter of ids and seeds, and a resumed reader needs no replay.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.errors import ShardError

_BLOCK = 512


def index_tar(path: Path) -> pa.Table:
    """Read a tar to its end and return ``sample_id, key, offset, size`` of every sample, ordered by key.

    ``sample_id`` is taken from the sample's ``.json`` member. Raises :class:`ShardError` if the tar is cut short or a
    sample has no ``sample_id``.
    """
    rows: dict[str, dict[str, int | str]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = Path(member.name).name.partition(".")
                row = rows.setdefault(key, {"key": key, "offset": member.offset, "sample_id": -1, "known": 0})
                row["end"] = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if extension == "json":
                    content = tar.extractfile(member)
                    assert content is not None
                    row["sample_id"] = int(json.load(content)["sample_id"])
                    row["known"] = 1
            end = tar.offset
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise ShardError(f"{path}: not a readable WebDataset tar with sample_id in each .json: {error!r}") from error
    # tarfile takes a file that stops after any member for a whole one; a writer that finished has left two zero blocks.
    if path.stat().st_size < end + _BLOCK:
        raise ShardError(f"{path}: truncated, its end-of-archive mark is missing")
    unknown = [key for key, row in rows.items() if not row["known"]]
    if unknown:
        raise ShardError(f"{path}: {len(unknown)} samples have no .json member, e.g. key {unknown[0]}")
    ordered = [rows[key] for key in sorted(rows)]
    return pa.table(
        {
            "sample_id": [row["sample_id"] for row in ordered],
            "key": [row["key"] for row in ordered],
            "offset": [row["offset"] for row in ordered],
            "size": [int(row["end"]) - int(row["offset"]) for row in ordered],
        },
        schema=schema.TAR_INDEX,
    )


class TarReader:
    """Random access to the samples of one tar; thread-safe, since every read names its position."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise ShardError(f"{path}: the tar is missing") from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def sample(self, offset: int, size: int) -> dict[str, bytes]:
        """The members of the sample at ``offset``, by extension, e.g. ``{"jpg": ..., "txt": ..., "json": ...}``."""
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise ShardError(f"{self.path}: truncated, wanted {size} bytes at {offset}, got {len(data)}")
        try:
            found = _plain_members(data)
            if found is None:
                with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                    found = [(member.name, member.offset_data, member.size) for member in tar]
        except tarfile.TarError as error:
            raise ShardError(f"{self.path}: no tar member at offset {offset}: {error}") from error
        return {
            name.rpartition("/")[2].partition(".")[2]: data[start : start + length] for name, start, length in found
        }


def _plain_members(data: bytes) -> list[tuple[str, int, int]] | None:
    """Name, start and size of members that have short names and whole checksums; None where `tarfile` must look.

    Reading headers with `tarfile` takes longer than decoding a small image, and a loader does so for every sample.
    """
    members, position = [], 0
    while position + _BLOCK <= len(data):
        header = data[position : position + _BLOCK]
        if not header[0]:
            break
        try:
            size, checksum = int(header[124:136].strip(b" \0"), 8), int(header[148:156].strip(b" \0"), 8)
        except ValueError:
            return None
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum:
            return None
        kind, start = header[156:157], position + _BLOCK
        if kind == b"x":
            # What webdataset writes: times as fractions. Names and sizes in such a record change the member.
            if b" path=" in data[start : start + size] or b" size=" in data[start : start + size]:
                return None
        elif kind in (b"0", b"\0") and not header[345]:
            members.append((header[:100].rstrip(b"\0").decode(), start, size))
        else:
            return None
        position = start + -(-size // _BLOCK) * _BLOCK
    return members


def write_tar(path: Path, samples: Iterable[Mapping[str, object]]) -> int:
    """Write samples (``__key__`` and one entry per extension) and return their number; equal samples, equal bytes."""
    import webdataset  # imports torch, which most users of this module do without

    count = 0
    with webdataset.TarWriter(str(path), mtime=0.0) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    return count


def read_index(paths: Iterable[Path]) -> Iterator[tuple[str, pa.Table]]:
    """``(shard, index)`` for each index file, in the order of their names."""
    for path in sorted(paths):
        yield path.stem, pq.read_table(path)

"""WebDataset tars with random access: an index of where each sample lies, and reading one sample.

A sample is a run of consecutive members that share a key, the part of the name before its first dot. The index
(``schema.TAR_INDEX``) lets stages and the trainer read samples in any order, so that no order has to be baked into
the tars: order stays a matter of ids and seeds, and a resumed reader needs no replay.
"""

import contextlib
import io
import json
import mmap
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.errors import ShardError

_BLOCK = 512
# Bytes that are read for nothing rather than with another read, and the most that one read takes.
_GAP_BYTES, _READ_BYTES = 256 << 10, 32 << 20


def index_tar(path: Path) -> pa.Table:
    """Read a tar to its end and return ``image_id, key, offset, size, crc32`` of every sample, ordered by key.

    ``image_id`` is taken from the sample's ``.json`` member. Raises :class:`ShardError` if the tar is cut short or a
    sample has no ``image_id``.
    """
    rows: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file, _mapped(file) as data:
        try:
            for member in _members(data):
                key, _, extension = member.name.rpartition("/")[2].partition(".")
                row = rows.setdefault(key, {"offset": member.offset, "image_id": None})
                row["end"] = _end_of(member)
                content = data[member.start : member.start + member.size]
                row["crc32"] = _checksum(extension, content, row.get("crc32", 0))
                if extension == "json":
                    row["image_id"] = int(json.loads(content)["image_id"])
        except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
            raise ShardError(f"{path}: not a readable WebDataset tar with image_id in each .json: {error!r}") from error
        # A writer that finished has left two zero blocks; without them the file stops after any member.
        end = max((row["end"] for row in rows.values()), default=0)
        if data[end : end + 2 * _BLOCK] != bytes(2 * _BLOCK):
            raise ShardError(f"{path}: truncated, its end-of-archive mark is missing")
    unknown = [key for key, row in rows.items() if row["image_id"] is None]
    if unknown:
        raise ShardError(f"{path}: {len(unknown)} samples have no .json member, e.g. key {unknown[0]}")
    keys = sorted(rows)
    columns = {name: [rows[key][name] for key in keys] for name in ("image_id", "offset", "end", "crc32")}
    sizes = [end - offset for end, offset in zip(columns.pop("end"), columns["offset"])]
    return pa.table({**columns, "key": keys, "size": sizes, "tar": pa.nulls(len(keys))}, schema=schema.TAR_INDEX)


def _checksum(extension: str, content: bytes, before: int) -> int:
    """The CRC32 of a sample, continued by a member."""
    return zlib.crc32(content, zlib.crc32(extension.encode(), before))


class _Member(NamedTuple):
    """``offset`` of its first header, ``start`` of its content."""

    name: str
    offset: int
    start: int
    size: int


def _mapped(file: IO[bytes]) -> Any:
    """The file's bytes without reading them; an empty file cannot be mapped."""
    if os.fstat(file.fileno()).st_size == 0:
        return contextlib.nullcontext(b"")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _members(data: Any) -> Sequence[_Member]:
    """Every member of a tar, or of a part of one that begins and ends between members; ``data``: bytes or a mapping.

    Plain headers, which WebDataset writers make, are read here, ten times as fast as by ``tarfile``, which takes longer
    for them than a small image takes to decode; it takes over where there is any other kind of header. Raises
    ``tarfile.TarError`` for damage.
    """
    plain = _plain_members(data)
    if plain is not None:
        return plain
    with tarfile.open(fileobj=io.BytesIO(data) if isinstance(data, bytes) else data, mode="r:") as tar:
        members = [_Member(info.name, info.offset, info.offset_data, info.size) for info in tar]
    # tarfile ends without a word at a header that it cannot read, unless it is the first.
    end = max((_end_of(member) for member in members), default=0)
    if any(data[end : end + _BLOCK]):
        raise tarfile.ReadError(f"header at {end} is damaged")
    return members


def _end_of(member: _Member) -> int:
    return member.start + -(-member.size // _BLOCK) * _BLOCK


def _plain_members(data: Any) -> list[_Member] | None:
    """The members, if all have plain headers; None if `tarfile` must look."""
    members: list[_Member] = []
    offset = position = 0
    while position < len(data):
        header = data[position : position + _BLOCK]
        if not header[0] and header == bytes(len(header)):
            break
        try:
            size, checksum = int(header[124:136].strip(b" \0"), 8), int(header[148:156].strip(b" \0"), 8)
        except ValueError:
            return None
        # The checksum is taken with its own eight bytes as spaces.
        if len(header) < _BLOCK or sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum:
            raise tarfile.ReadError(f"header at {position} is damaged")
        kind, start = header[156:157], position + _BLOCK
        if start + size > len(data):
            raise tarfile.ReadError(f"member at {position} is cut short")
        position = start + -(-size // _BLOCK) * _BLOCK
        if kind == b"x":
            # What webdataset writes: times as fractions. Names and sizes in such a record change the member.
            if b" path=" in data[start : start + size] or b" size=" in data[start : start + size]:
                return None
        elif kind in (b"0", b"\0") and not header[345]:
            members.append(_Member(header[:100].partition(b"\0")[0].decode(), offset, start, size))
            offset = position
        else:
            return None
    return members


class Place(NamedTuple):
    """Where a sample lies in its tar, and what it sums to; no sum leaves it unverified."""

    offset: int
    size: int
    crc32: int | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Place":
        """That of a row of an index, which earlier versions wrote without sums."""
        return cls(row["offset"], row["size"], row.get("crc32"))


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

    def raw(self, offset: int, size: int) -> bytes:
        """The bytes of the sample at ``offset`` as they stand there."""
        return self._read(offset, size)

    def sample(self, offset: int, size: int, crc32: int | None = None) -> dict[str, bytes]:
        """The members of the sample at ``offset``, by extension, e.g. ``{"jpg": ..., "txt": ..., "json": ...}``.

        Raises :class:`ShardError` where there is none, or one that does not sum to ``crc32``.
        """
        return self._split(self._read(offset, size), offset, crc32)

    def samples(self, places: Sequence[Place]) -> list[dict[str, bytes]]:
        """The samples at each place, in the order asked for.

        Those that lie near to one another are read in one go, so that a tar whose samples are asked for in about its
        own order is read from front to back.
        """
        found: list[dict[str, bytes]] = [{} for _ in places]
        for run in _runs(places):
            start = places[run[0]].offset
            data = memoryview(self._read(start, max(sum(places[number][:2]) for number in run) - start))
            for number in run:
                offset, size, crc32 = places[number]
                found[number] = self._split(bytes(data[offset - start : offset - start + size]), offset, crc32)
        return found

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise ShardError(
                f"{self.path}: truncated, wanted {size} bytes at {offset}, got {len(data)}", damaged=self.path
            )
        return data

    def _split(self, data: bytes, offset: int, crc32: int | None) -> dict[str, bytes]:
        try:
            return read_sample(data, where=f"{self.path}, offset {offset}", crc32=crc32)
        except ShardError as error:
            error.damaged = self.path
            raise


def read_sample(data: bytes, *, where: str, crc32: int | None = None) -> dict[str, bytes]:
    """The members of one sample by extension, from its bytes in a tar; ``where`` they came from is for errors.

    Raises :class:`ShardError` for what is no sample, or does not sum to ``crc32``.
    """
    try:
        found = _members(data)
        members = {
            name.rpartition("/")[2].partition(".")[2]: data[start : start + size] for name, _, start, size in found
        }
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise ShardError(f"{where}: no tar member there: {error}") from error
    if crc32 is not None:
        checksum = 0
        for extension, content in members.items():
            checksum = _checksum(extension, content, checksum)
        if checksum != crc32:
            raise ShardError(f"{where}: the sample was damaged since it was written, its checksum is another")
    return members


def _runs(places: Sequence[Place]) -> Iterator[list[int]]:
    """Numbers of the places, in runs that one read serves: ordered by offset, without large gaps, bounded in size."""
    run: list[int] = []
    start = end = 0
    for number in sorted(range(len(places)), key=lambda number: places[number].offset):
        offset, size, _ = places[number]
        if run and (offset - end > _GAP_BYTES or offset + size - start > _READ_BYTES):
            yield run
            run = []
        if not run:
            start = end = offset
        run.append(number)
        end = max(end, offset + size)
    if run:
        yield run


def write_tar(path: Path, samples: Iterable[Mapping[str, object]]) -> int:
    """Write samples (``__key__`` and one entry per extension) and return their number; equal samples, equal bytes.

    They are those of ``webdataset.TarWriter``, whose import loads torch, which most users of this module do without.
    """
    count = 0
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for extension in sorted(name for name in sample if not name.startswith("_")):
                content = _encoded(sample[extension])
                info = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                info.size, info.mode, info.uname, info.gname = len(content), 0o444, "bigdata", "bigdata"
                tar.addfile(info, io.BytesIO(content))
            count += 1
    return count


def _encoded(value: object) -> bytes:
    """The bytes of a member: arrays as NumPy writes them, what is neither bytes, text nor an array as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return buffer.getvalue()
    return json.dumps(value).encode()


def append_samples(old: Path, end: int, samples: Iterable[tuple[str, Mapping[str, bytes]]], target: Path) -> None:
    """Write ``target``: the first ``end`` bytes of the tar ``old`` as they are, then ``samples`` (key, members)."""
    with old.open("rb") as source, target.open("wb") as file:
        left = end
        while left:
            chunk = source.read(min(left, 1 << 20))
            if not chunk:
                raise ShardError(f"{old}: truncated, wanted {end} bytes")
            file.write(chunk)
            left -= len(chunk)
        for key, members in samples:
            file.write(sample_bytes(key, members))
        _end(file)


def write_samples(samples: Iterable[bytes], target: Path) -> None:
    """Write a tar of samples as the bytes that they are in another one, or that :func:`sample_bytes` makes."""
    with target.open("wb") as file:
        for content in samples:
            file.write(content)
        _end(file)


def sample_bytes(key: str, members: Mapping[str, bytes]) -> bytes:
    """A sample as it stands in a tar."""
    content = b""
    for extension, member in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode = len(member), 0o444
        content += info.tobuf(tarfile.USTAR_FORMAT) + member + bytes(-len(member) % _BLOCK)
    return content


def _end(file: IO[bytes]) -> None:
    file.write(bytes(2 * _BLOCK))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def read_index(path: Path) -> pa.Table:
    """The index of a tar with all its columns; null where another writer has written none."""
    table = parquet.read_table(path)
    for place, field in enumerate(schema.TAR_INDEX):
        if field.nullable and field.name not in table.column_names:
            table = table.add_column(min(place, table.num_columns), field, pa.nulls(table.num_rows, field.type))
    return table

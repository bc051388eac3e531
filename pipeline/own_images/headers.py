"""Members of a tar by their headers alone: a walk from header to header, and the rest for thousands of them at once.

The walk looks at size and kind; names and checksums are taken from all headers by numpy. Plain headers, which nearly
all tars have, are read here; ``tarfile`` reads the others.
"""

import contextlib
import dataclasses
import mmap
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import SourceError, brief
from pipeline.core.remote_tar import read_range
from pipeline.own_images.find import Place

_BLOCK = 512
# Of a tar elsewhere so much is asked for at a time: small images come with their headers, large ones are passed over.
_REQUEST = 4 << 20
# Headers that are looked at together.
_TOGETHER = 8192
_FILES, _RECORD, _RECORD_OF_ALL, _EMPTY = b"0\0", ord("x"), ord("g"), b"123456"
# What a record before a member may say that changes its name or size.
_CHANGES = (b" path=", b" size=", b"GNU.sparse")
# What ends the size in its field, unless that is filled with digits.
_ENDS = (0, ord(" "))
_SPACES = np.uint32(8 * ord(" "))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """The files in a tar, in its order: ``offsets`` of their first header, ``starts`` of their content.

    ``fault``: why it cannot be read to its end, if it cannot, and ``cut`` the file in which it stops; ``finished``:
    whether it has the mark of a writer that came to its end.
    """

    names: pa.Array
    offsets: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    fault: str | None = None
    cut: str | None = None
    finished: bool = True


class _Irregular(Exception):
    """A header of another kind, for ``tarfile`` to read."""


@dataclasses.dataclass
class _Walk:
    """Headers of files, each with its position; ``records``: positions of the first of those records that belong to the
    file after them, by its number. The others have headers that are only summed."""

    headers: list[bytes] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    records: dict[int, int] = dataclasses.field(default_factory=dict)
    others: list[bytes] = dataclasses.field(default_factory=list)
    position: int = 0
    fault: str | None = None
    cut: str | None = None
    finished: bool = True


@contextlib.contextmanager
def tar_bytes(place: Place) -> Iterator[Any]:
    """A tar as what gives bytes for a slice and has a length; :class:`SourceError` if it cannot be opened."""
    if not place.local:
        with tempfile.TemporaryFile() as kept:
            yield _Blocks(place, kept)
        return
    try:
        with place.open() as file:
            size = file.seek(0, 2)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else contextlib.nullcontext(b"")
    except OSError as error:
        raise SourceError(f"tar {place.name}: cannot be read: {brief(error)}") from error
    with mapped as data:
        yield data


def read_contents(data: Any, place: Place) -> Contents:
    """The files in a tar, whose bytes are ``data``. Raises :class:`SourceError` for what is no tar."""
    try:
        contents = _plain(data)
    except _Irregular:
        contents = _by_tarfile(place, data)
    if contents.fault and not len(contents.names) and not contents.cut:
        raise SourceError(f"tar {place.name}: is no tar: {contents.fault}")
    return contents


def _plain(data: Any) -> Contents:
    parts: list[tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]] = []
    walk, more = _Walk(), True
    while more:
        more = _go_on(data, walk)
        parts.append(_read_headers(walk))
    names, offsets, starts, sizes = zip(*parts)
    return Contents(
        names=pa.concat_arrays(names),
        offsets=np.concatenate(offsets),
        starts=np.concatenate(starts),
        sizes=np.concatenate(sizes),
        fault=walk.fault,
        cut=walk.cut,
        finished=walk.finished,
    )


def _go_on(data: Any, walk: _Walk) -> bool:
    """Walk over the next headers; whether there are more of them."""
    headers, positions = walk.headers, walk.positions
    position, end, record = walk.position, len(data), None
    while len(positions) < _TOGETHER or record is not None:
        header = data[position : position + _BLOCK]
        try:
            size = int(header[124:135], 8)
        except ValueError:
            if any(header) and len(header) == _BLOCK:
                raise _Irregular from None
            walk.finished = len(header) == _BLOCK
            walk.fault = f"it is cut short at byte {end}" if any(header) or not end else None
            return False
        if position + _BLOCK + size > end:
            name = _name(header)
            walk.fault, walk.cut, walk.finished = f"it is cut short at byte {end}, in {name!r}", name, False
            return False
        kind = header[156]
        if kind in _FILES:
            if record is not None:
                walk.records[len(positions)], record = record, None
            headers.append(header)
            positions.append(position)
        else:
            _require_known(kind, size, data[position + _BLOCK : position + _BLOCK + size])
            walk.others.append(header)
            if kind == _RECORD and record is None:
                record = position
        position += _BLOCK + (size + _BLOCK - 1 & -_BLOCK)
    walk.position = position
    return True


def _require_known(kind: int, size: int, content: bytes) -> None:
    """Refuse what changes the member after it, and what is of a kind whose size is not that of a content."""
    if kind in (_RECORD, _RECORD_OF_ALL):
        if any(change in content for change in _CHANGES):
            raise _Irregular
    elif kind not in _EMPTY or size:
        raise _Irregular


def _read_headers(walk: _Walk) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """Names and places of the files that were walked over, which are forgotten."""
    headers = np.frombuffer(b"".join(walk.headers + walk.others), np.uint8).reshape(-1, _BLOCK)
    # The checksum is taken with its own eight bytes as spaces.
    sums = headers.sum(axis=1, dtype=np.uint32) - headers[:, 148:156].sum(axis=1, dtype=np.uint32) + _SPACES
    if (sums != _octal(headers[:, 148:156])).any() or not np.isin(headers[:, 135], _ENDS).all():
        raise _Irregular
    files = headers[: len(walk.headers)]
    names = np.ascontiguousarray(files[:, :100]).view("S100").ravel().tolist()
    for number in np.flatnonzero(files[:, 345]).tolist():
        names[number] = _name(walk.headers[number]).encode()
    positions = np.array(walk.positions, np.int64)
    offsets = positions.copy()
    for number, record in walk.records.items():
        offsets[number] = record
    for held in (walk.headers, walk.positions, walk.records, walk.others):
        held.clear()
    return _texts(names), offsets, positions + _BLOCK, _octal(files[:, 124:136])


def _texts(names: list[bytes]) -> pa.Array:
    try:
        return pa.array(names, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(name) for name in names], pa.string())


def _octal(fields: np.ndarray) -> np.ndarray:
    """Numbers in octal digits, a row each, whatever is put around them."""
    values = np.zeros(len(fields), np.int64)
    for column in fields.T:
        digit = column - np.uint8(ord("0"))
        values = np.where(digit < 8, values * 8 + digit, values)
    return values


def _name(header: bytes) -> str:
    name = _decoded(header[:100])
    # What GNU keeps there is no part of a name.
    if header[257:263] == b"ustar\0" and header[345]:
        return f"{_decoded(header[345:500])}/{name}"
    return name


def _decoded(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="backslashreplace")


def _by_tarfile(place: Place, data: Any) -> Contents:
    """The same by the standard library, which knows every kind of header."""
    found: list[tarfile.TarInfo] = []
    fault, cut, size = None, None, len(data)
    with place.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                found.extend(tar)
        except tarfile.TarError as error:
            fault = f"it cannot be read to its end: {error}"
    if found and found[-1].offset_data + found[-1].size > size:
        cut = found.pop().name
        fault = f"it is cut short at byte {size}, in {cut!r}"
    end = max((info.offset_data + (info.size + _BLOCK - 1 & -_BLOCK) for info in found), default=0)
    following = data[end : end + _BLOCK] if end < size else b""
    # tarfile ends without a word at a header that it cannot read.
    if fault is None and any(following):
        fault = f"its header at byte {end} is damaged, so that {size - end} bytes of {size} are not read"
    files = [info for info in found if info.isfile() and not info.issparse()]
    return Contents(
        names=_texts([info.name.encode(errors="surrogateescape") for info in files]),
        offsets=np.array([info.offset for info in files], np.int64),
        starts=np.array([info.offset_data for info in files], np.int64),
        sizes=np.array([info.size for info in files], np.int64),
        fault=fault,
        cut=cut,
        finished=bool(following),
    )


class _Blocks:
    """A tar elsewhere: slices from blocks of it, each fetched when it is first asked for, and kept until the end."""

    def __init__(self, place: Place, kept: IO[bytes]):
        self._place, self._kept = place, kept
        self._size = int(place.filesystem.info(place.path)["size"])
        self._there = set[int]()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, asked: slice) -> bytes:
        start, stop = asked.start, min(asked.stop, self._size)
        for block in range(start // _REQUEST, -(-stop // _REQUEST)):
            if block not in self._there:
                self._fetch(block)
        return os.pread(self._kept.fileno(), max(stop - start, 0), start)

    def _fetch(self, block: int) -> None:
        start = block * _REQUEST
        place = self._place
        data = read_range(place.filesystem, place.path, start, min(_REQUEST, self._size - start), where=place.name)
        os.pwrite(self._kept.fileno(), data, start)
        self._there.add(block)

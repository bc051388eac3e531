"""Samples as they are found, whatever they lie in: the table ``own_samples``, and names of those without a URL."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

SAMPLES = pa.schema(
    [
        pa.field("shard", pa.string()),
        # Its place in the shard.
        pa.field("number", pa.int64()),
        pa.field("key", pa.string()),
        # The tar, the Parquet file, or the file of the image; where in it.
        pa.field("path", pa.string()),
        # What tells that from one that took its place.
        pa.field("identity", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("crc32", pa.uint32()),
        pa.field("extension", pa.string()),
        pa.field("url", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("captions", pa.list_(pa.string())),
        # Carried values, as texts of their types; null where no column is carried.
        pa.field("attributes", pa.list_(pa.string())),
        # What its id is made from; none for a sample that is not used, whose reason is said.
        pa.field("name", pa.string()),
        pa.field("unused", pa.string()),
        pa.field("error", pa.string()),
    ]
)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:\S")
_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
# Images whose bytes are held at a time.
_TOGETHER = 64


def samples_table(columns: Mapping[str, Any], *, shard: str, rows: int) -> pa.Table:
    """A table of samples; columns that are not given are null."""
    whole = {"shard": pa.array([shard] * rows, pa.string()), **columns}
    arrays = [whole[field.name] if field.name in whole else pa.nulls(rows, field.type) for field in SAMPLES]
    arrays = [
        array.cast(field.type) if isinstance(array, pa.Array | pa.ChunkedArray) else pa.array(array, field.type)
        for array, field in zip(arrays, SAMPLES)
    ]
    return pa.table(arrays, schema=SAMPLES)


def name_samples(table: pa.Table, read: Callable[[Sequence[int]], "Sequence[bytes | Exception]"]) -> pa.Table:
    """Give each usable sample its name: the URL, or where none is known the SHA-256 of the image.

    Only for the latter ``read`` is asked for bytes, by row numbers, a few at a time. From them come size and checksum.
    """
    usable = pc.is_null(table["unused"])
    table = _with(table, "name", pc.if_else(usable, table["url"], pa.scalar(None, pa.string())))
    wanted = pc.indices_nonzero(pc.and_(usable, pc.is_null(table["url"]))).to_pylist()
    if not wanted:
        return table
    names = ("name", "sha256", "crc32", "width", "height", "unused", "error")
    columns = {name: table[name].to_pylist() for name in names}
    extensions = table["extension"].to_pylist()
    for start in range(0, len(wanted), _TOGETHER):
        rows = wanted[start : start + _TOGETHER]
        for row, content in zip(rows, read(rows)):
            for name, value in _described(content, extensions[row]).items():
                columns[name][row] = value
    for name, values in columns.items():
        table = _with(table, name, pa.array(values, SAMPLES.field(name).type))
    return table


def _described(content: bytes | Exception, extension: str) -> dict[str, Any]:
    """What an image's bytes say of it."""
    if isinstance(content, Exception):
        return {"unused": "failed_to_read", "error": " ".join(str(content).split())}
    header = image_header(content)
    if header is None:
        return {"unused": "failed_to_read", "error": not_an_image(content)}
    digest = hashlib.sha256(content).hexdigest()
    checksum = zlib.crc32(content, zlib.crc32(extension.encode()))
    return {
        "name": f"sha256:{digest}",
        "sha256": digest,
        "crc32": checksum,
        "width": header.width,
        "height": header.height,
    }


class Header(NamedTuple):
    """What the header of an image says, ``extension`` of its format."""

    extension: str
    width: int
    height: int


def image_header(content: bytes) -> Header | None:
    """None if it is no JPEG, PNG or WebP. Nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=tuple(_FORMATS)) as image:
                # Pillow calls a JPEG with further pictures behind the first an MPO.
                return Header(_FORMATS.get(str(image.format), "jpg"), *image.size)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        return None


def not_an_image(content: bytes) -> str:
    """What is said of bytes that are none."""
    return f"no JPEG, PNG or WebP, its {len(content)} bytes begin with {content[:8].hex(' ')}"


def mark_unused(table: pa.Table, which: Any, reason: str, error: Any) -> pa.Table:
    """Say of some rows why they are not used, in one text or one for each row."""
    for name, text in (("unused", reason), ("error", error)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pc.if_else(which, text, table[name]))
    return table


def texts_of(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Texts under these names, those in lists too; what holds no letter or sign is none."""
    found = [item for name in names for item in (_items(values.get(name)))]
    return [text for text in found if isinstance(text, str) and text.strip()]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def url_of(values: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of these that is a URL."""
    texts = (text.strip() for name in names for text in _items(values.get(name)) if isinstance(text, str))
    return next((text for text in texts if _URL.match(text)), None)


def literal(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), SAMPLES.field(name), values)

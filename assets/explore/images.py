"""Images by id: where each lies, and small copies of it that are safe to show."""

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.remote_tar import image_of
from pipeline.core.tars import read_index
from pipeline.storage.samples import stored_sample

SIDES: Final = {"thumb": 160, "picture": 640}
"""Pixels of the longer side, by kind of copy."""

_MOST_PIXELS, _MOST_BYTES = 64_000_000, 64 << 20
_FORMATS = ("JPEG", "PNG", "WEBP")
_QUALITY = 80
_PLACE = np.dtype(
    [("image_id", "i8"), ("offset", "i8"), ("size", "i8"), ("crc32", "i8"), ("shard", "i4"), ("tar", "i4")]
)
_REMEMBERED = 3000


class Images:
    """Stored images of a root, the indexes of whose tars are held: 48 bytes an image."""

    def __init__(self, root: Path, indexes: Sequence[Path]):
        self._root, self._shards = root, [path.stem for path in indexes]
        self._tars: list[str | None] = [None]
        parts = [np.empty(0, _PLACE), *(self._places(path, number) for number, path in enumerate(indexes))]
        every = np.concatenate(parts)
        self._row = every[np.argsort(every["image_id"], kind="stable")]
        self.ids = np.ascontiguousarray(self._row["image_id"])
        self._made = functools.lru_cache(maxsize=_REMEMBERED)(self._make)

    def __contains__(self, image: int) -> bool:
        return self._place(image) is not None

    def stored(self, image: int) -> bytes:
        """The image as it is stored.

        Raises :class:`pipeline.core.errors.PipelineError` if it cannot be read; :class:`KeyError` if there is none.
        """
        place = self._place(image)
        if place is None:
            raise KeyError(image)
        row = self._row[place]
        where = {
            "offset": int(row["offset"]),
            "size": int(row["size"]),
            "crc32": None if row["crc32"] < 0 else int(row["crc32"]),
            "tar": self._tars[row["tar"]],
        }
        return image_of(stored_sample(self._root, self._shards[row["shard"]], where))

    def copy(self, image: int, kind: str) -> bytes | None:
        """A JPEG of one of the ``SIDES``; none for what is no image, is missing or damaged."""
        try:
            return self._made(image, kind)
        except (PipelineError, OSError, KeyError):
            # Not remembered: a store may answer the next time.
            return None

    def _make(self, image: int, kind: str) -> bytes | None:
        return as_jpeg(self.stored(image), SIDES[kind])

    def _places(self, index: Path, shard: int) -> np.ndarray:
        """Rows of one index; tars that lie elsewhere are noted by their number."""
        table = read_index(index)
        found = np.zeros(table.num_rows, _PLACE)
        found["shard"] = shard
        for name in ("image_id", "offset", "size"):
            found[name] = table[name].to_numpy()
        found["crc32"] = table["crc32"].cast("int64").fill_null(-1).to_numpy()
        if table["tar"].null_count < table.num_rows:
            column = table["tar"].combine_chunks().dictionary_encode()
            names = column.dictionary.to_pylist()
            found["tar"] = column.indices.fill_null(-len(self._tars)).to_numpy() + len(self._tars)
            self._tars += names
        return found

    def _place(self, image: int) -> int | None:
        place = int(np.searchsorted(self.ids, image))
        return place if place < len(self.ids) and self.ids[place] == image else None


def as_jpeg(data: bytes, side: int) -> bytes | None:
    """Any image, decoded and encoded again with at most ``side`` pixels; none for what cannot be decoded or is too
    large to be worth it."""
    from PIL import Image, ImageOps

    if len(data) > _MOST_BYTES:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return None
            opened.draft("RGB", (side, side))
            small = ImageOps.exif_transpose(opened)
            if small.mode in ("RGBA", "LA", "PA", "P"):
                whole = small.convert("RGBA")
                small = Image.new("RGB", whole.size, "white")
                small.paste(whole, mask=whole.getchannel("A"))
            small = small.convert("RGB")
            small.thumbnail((side, side))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=_QUALITY)
            return buffer.getvalue()
    # What decoders raise for damage is of many types.
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error, MemoryError):
        return None
    except Image.DecompressionBombError:
        return None

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
_REMEMBERED = 3000


class Images:
    """Stored images of a root, the indexes of whose tars are held: 44 bytes an image."""

    def __init__(self, root: Path, indexes: Sequence[Path]):
        self._root, self._shards = root, [path.stem for path in indexes]
        tables = [read_index(path).select(["image_id", "offset", "size", "crc32", "tar"]) for path in indexes]
        columns = {
            name: np.concatenate([np.empty(0, np.int64), *(table[name].to_numpy() for table in tables)])
            for name in ("image_id", "offset", "size")
        }
        shard = np.repeat(np.arange(len(tables), dtype=np.int32), [table.num_rows for table in tables])
        sums = [table["crc32"].cast("int64").fill_null(-1).to_numpy() for table in tables]
        tars = [name for table in tables for name in table["tar"].to_pylist()]
        order = np.argsort(columns["image_id"], kind="stable")
        self._names = list(dict.fromkeys(tars))
        numbers = {name: number for number, name in enumerate(self._names)}
        self._tar = np.array([numbers[name] for name in tars], np.int32)[order]
        self.ids, self._offset, self._size = (columns[name][order] for name in ("image_id", "offset", "size"))
        self._shard = shard[order]
        self._sum = np.concatenate([np.empty(0, np.int64), *sums])[order]
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
        sums = int(self._sum[place])
        row = {
            "offset": int(self._offset[place]),
            "size": int(self._size[place]),
            "crc32": None if sums < 0 else sums,
            "tar": self._names[self._tar[place]],
        }
        return image_of(stored_sample(self._root, self._shards[self._shard[place]], row))

    def copy(self, image: int, kind: str) -> bytes | None:
        """A JPEG of one of the ``SIDES``; none for what is no image, is missing or damaged."""
        try:
            return self._made(image, kind)
        except (PipelineError, OSError, KeyError):
            # Not remembered: a store may answer the next time.
            return None

    def _make(self, image: int, kind: str) -> bytes | None:
        return as_jpeg(self.stored(image), SIDES[kind])

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

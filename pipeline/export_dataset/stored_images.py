"""Bytes of stored images, read where their indexes say that they lie, one tar open at a time."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from pipeline.core.errors import ShardError
from pipeline.core.remote_tar import image_member, open_tar
from pipeline.core.tars import Place, TarReader
from pipeline.export_dataset.rows import PLACE
from pipeline.storage.roots import storage_of

IMAGE: Final = pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))
"""What the library ``datasets`` decodes to a picture, where the file says that it is one."""

# What is read at once, and is a row group: readers of the data set decode row groups whole.
_ROWS, _BYTES = 1000, 64 << 20


class StoredImages:
    """Images of a root, in the order of their shards; tars of a remote root are there while they are read."""

    def __init__(self, root: Path):
        self._root = root
        self._tar: tuple[str, str | None] | None = None
        self._reader: TarReader
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def column(self, table: pa.Table) -> pa.Array:
        """The images of a table with the columns :data:`PLACE` and ``image_id``."""
        rows = table.select(["image_id", *PLACE]).to_pylist()
        images: list[dict[str, Any]] = []
        for (shard, tar), run in itertools.groupby(rows, key=lambda row: (row["shard"], row["tar"])):
            places = list(run)
            self._open(shard, tar)
            for row, members in zip(places, self._reader.samples([Place.of(row) for row in places])):
                try:
                    name, content = image_member(members)
                except ShardError as error:
                    raise ShardError(f"{self._reader.path}, offset {row['offset']}: {error}") from error
                images.append({"bytes": content, "path": f"{row['image_id']}.{name}"})
        return pa.array(images, IMAGE.type)

    def _open(self, shard: str, tar: str | None) -> None:
        if self._tar == (shard, tar):
            return
        self._held.close()
        if tar is None:
            self._held.enter_context(storage_of(self._root).borrowed([f"images/{shard}.tar"]))
        self._reader, self._tar = open_tar(self._root, shard, tar), (shard, tar)


def parts(table: pa.Table) -> Iterator[pa.Table]:
    """A table in parts whose images fit into memory."""
    start, total = 0, 0
    for number, size in enumerate(table["size"].to_pylist()):
        if number > start and (number - start == _ROWS or total + size > _BYTES):
            yield table.slice(start, number - start)
            start, total = number, 0
        total += size
    if start < table.num_rows:
        yield table.slice(start)

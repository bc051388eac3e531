"""One stored image at a time, wherever it lies: of a tar in an object store the part that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.remote_tar import open_tar
from pipeline.core.tars import Place, read_sample
from pipeline.storage.roots import storage_of


def stored_sample(root: Path, shard: str, row: Mapping[str, Any]) -> dict[str, bytes]:
    """The members of a sample of the stage ``images``; ``row`` is that of the tar's index."""
    offset, size, crc32 = Place.of(row)
    if row.get("tar") is not None:
        return open_tar(root, shard, row["tar"]).sample(offset, size, crc32)
    name = f"images/{shard}.tar"
    return read_sample(storage_of(root).part(name, offset, size), where=name, crc32=crc32)

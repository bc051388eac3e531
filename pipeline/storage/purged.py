"""What was purged from a root for good: ids alone, by which it is known again and not brought back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.errors import StorageError
from pipeline.core.files import file_digest
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of

if TYPE_CHECKING:
    from pipeline.storage.stage import Output

FOLDER = ".purged"
IDS = f"{FOLDER}/ids.parquet"
JOURNAL = f"{FOLDER}/journal.json"
"""There while a purge is under way."""


def purged_images(root: Path) -> np.ndarray:
    """The ``image_id`` of every image that was purged from a root, ascending."""
    storage = storage_of(root)
    if not storage.sizes([IDS]):
        return np.empty(0, np.int64)
    storage.fetch([IDS])
    return parquet.read_table(root / IDS, columns=["image_id"])["image_id"].to_numpy()


def add_purged(root: Path, image_ids: np.ndarray) -> None:
    """Add images to those that were purged."""
    storage = storage_of(root)
    every = np.union1d(purged_images(root), image_ids)
    temporary = root / f"{IDS}.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image_id": every}, schema=pa.schema([schema.IMAGE_ID])), temporary)
    storage.publish({IDS: temporary})


def write_unpurged(output: "Output", name: str, table: pa.Table, purged: np.ndarray, **options: Any) -> int:
    """Write a table of pairs to a shard less the images that were purged; returns how many rows that were.

    What is made from the file is then still what would be made, for its digest is that of the whole table.
    """
    path = output.path(name)
    left = table.filter(pa.array(~np.isin(table["image_id"].to_numpy(), purged)))
    if left.num_rows < table.num_rows:
        parquet.write_table(table, path, **options)
        output.before_purge[name] = file_digest(path)
    parquet.write_table(left, path, **options)
    return int(table.num_rows - left.num_rows)


def refuse_half_purged(storage: Storage) -> None:
    """Raise :class:`StorageError` for a root from which a purge has taken a part of what it was to take."""
    if storage.sizes([JOURNAL]):
        raise StorageError(
            f"{storage.uri('')}: a purge of this root was interrupted; give its `clip-cid purge` command again first"
        )

"""Fetching chosen samples again: which, and how what came is merged into the shard that is there.

Good samples are copied as the bytes they are; those that were fetched now follow them in the tar.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core import parquet, schema
from pipeline.core.tars import Place, TarReader, append_samples, index_tar
from pipeline.download.images_of import images_of
from pipeline.storage.roots import storage_of


def write_retry_lists(root: Path, source: Mapping[str, Path], statuses: Sequence[str], folder: Path) -> dict[str, Path]:
    """A list of the images with one of ``statuses`` for each shard that has any; ``source``: pairs of each shard."""
    folder.mkdir()
    lists = {}
    storage_of(root).fetch(f"images/{shard}.parquet" for shard in source)
    for shard, pairs in source.items():
        table = parquet.read_table(root / "images" / f"{shard}.parquet", columns=["image_id", "status"])
        chosen = table.filter(pc.is_in(table["status"], pa.array(statuses, pa.string())))
        if chosen.num_rows:
            lists[shard] = folder / f"{shard}.parquet"
            images = images_of(pairs)
            pq.write_table(images.filter(pc.is_in(images["image_id"], chosen["image_id"])), lists[shard])
    return lists


def merge_shard(root: Path, shard: str, fetched: pa.Table, fetched_tar: Path, target: Path) -> pa.Table:
    """Write the merged tar to ``target`` and return the merged table of statuses, ordered by key.

    ``fetched`` are statuses of some of the shard's images, with keys of their own; the images keep the keys they had.
    """
    before = parquet.read_table(root / "images" / f"{shard}.parquet").cast(schema.IMAGES)
    again = pc.is_in(before["image_id"], fetched["image_id"])
    keys = dict(zip(*(before.filter(again)[name].to_pylist() for name in ("image_id", "key"))))
    renamed = pa.array([keys[image_id] for image_id in fetched["image_id"].to_pylist()], pa.string())
    fetched = fetched.set_column(fetched.column_names.index("key"), schema.IMAGES.field("key"), renamed)
    index = parquet.read_table(root / "images" / "index" / f"{shard}.parquet")
    end = pc.max(pc.add(index["offset"], index["size"])).as_py() or 0
    append_samples(root / "images" / f"{shard}.tar", end, _samples(fetched_tar, keys), target)
    merged = pa.concat_tables([before.filter(pc.invert(again)), fetched])
    return merged.sort_by([("key", "ascending"), ("image_id", "ascending")])


def _samples(tar: Path, keys: dict[int, str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar under the keys they had, which their metadata repeats."""
    reader = TarReader(tar)
    for row in index_tar(tar).to_pylist():
        members = reader.sample(*Place.of(row))
        key = keys[row["image_id"]]
        members["json"] = json.dumps(json.loads(members["json"]) | {"key": key}, indent=4).encode()
        yield key, members

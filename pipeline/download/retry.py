"""Fetching chosen samples again: which, and how what came is merged into the shard that is there.

Good samples are copied as the bytes they are; those that were fetched now follow them in the tar.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core import parquet, schema
from pipeline.core.tars import Place, TarReader, append_samples, index_tar
from pipeline.storage.roots import storage_of


def write_retry_lists(root: Path, shards: Iterable[str], statuses: Sequence[str], folder: Path) -> dict[str, Path]:
    """A list of the pairs with one of ``statuses`` for each shard that has any."""
    folder.mkdir()
    lists = {}
    shards = list(shards)
    storage_of(root).fetch(f"images/{shard}.parquet" for shard in shards)
    for shard in shards:
        table = parquet.read_table(root / "images" / f"{shard}.parquet", columns=[*schema.SOURCE_PAIRS.names, "status"])
        chosen = table.filter(pc.is_in(table["status"], pa.array(statuses, pa.string())))
        if chosen.num_rows:
            lists[shard] = folder / f"{shard}.parquet"
            pq.write_table(chosen.select(schema.SOURCE_PAIRS.names), lists[shard])
    return lists


def merge_shard(root: Path, shard: str, fetched: pa.Table, fetched_tar: Path, target: Path) -> pa.Table:
    """Write the merged tar to ``target`` and return the merged table of statuses, ordered by key.

    ``fetched`` are statuses of some of the shard's pairs, with keys of their own; the pairs keep the keys they had.
    """
    before = parquet.read_table(root / "images" / f"{shard}.parquet").cast(schema.IMAGES)
    again = pc.is_in(before["sample_id"], fetched["sample_id"])
    keys = dict(zip(*(before.filter(again)[name].to_pylist() for name in ("sample_id", "key"))))
    renamed = pa.array([keys[sample_id] for sample_id in fetched["sample_id"].to_pylist()], pa.string())
    fetched = fetched.set_column(fetched.column_names.index("key"), schema.IMAGES.field("key"), renamed)
    index = parquet.read_table(root / "images" / "index" / f"{shard}.parquet")
    end = pc.max(pc.add(index["offset"], index["size"])).as_py() or 0
    append_samples(root / "images" / f"{shard}.tar", end, _samples(fetched_tar, keys), target)
    merged = pa.concat_tables([before.filter(pc.invert(again)), fetched])
    return merged.sort_by([("key", "ascending"), ("sample_id", "ascending")])


def _samples(tar: Path, keys: dict[int, str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar under the keys they had, which their metadata repeats."""
    reader = TarReader(tar)
    for row in index_tar(tar).to_pylist():
        members = reader.sample(*Place.of(row))
        key = keys[row["sample_id"]]
        members["json"] = json.dumps(json.loads(members["json"]) | {"key": key}, indent=4).encode()
        yield key, members

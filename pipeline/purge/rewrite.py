"""Files without what goes: tables row by row, tars sample by sample. To do it again changes nothing more."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import parquet, schema
from pipeline.core.tars import TarReader, index_tar, read_index, sample_bytes, write_samples
from pipeline.graph.contraction import without_nodes
from pipeline.graph.forest import Edges
from pipeline.neighbors.search import write_forest
from pipeline.purge.gone import Gone


def count_gone(path: Path, gone: Gone) -> int:
    """How many rows of a Parquet file go; reads its ids alone."""
    with parquet.reading(path):
        file = parquet.open_file(path, pre_buffer=False)
        columns = [name for name in gone.by_column if name in file.schema_arrow.names]
        if not columns:
            return 0
        return sum(int(gone.rows(batch).sum()) for batch in file.iter_batches(columns=columns))


def rewrite_table(path: Path, target: Path, gone: Gone) -> None:
    """Write a Parquet file less the rows that go, laid out as it was."""
    with parquet.reading(path):
        file = parquet.open_file(path, pre_buffer=False)
        with parquet.writer(target, file.schema_arrow, **_layout(file)) as writer:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                left = table.filter(pa.array(~gone.rows(table)))
                if left.num_rows:
                    writer.write_table(left, row_group_size=left.num_rows)


def look_alikes(path: Path, gone: Gone) -> list[int]:
    """The images that stay and have an edge to one that goes, in a near-duplicate forest."""
    table = parquet.read_table(path)
    ends = np.stack([table[name].to_numpy() for name in ("id_a", "id_b")])
    linked = ends[:, np.isin(ends, gone.image_ids).any(axis=0)]
    return [int(value) for value in np.setdiff1d(linked, gone.image_ids)]


def rewrite_forest(path: Path, target: Path, gone: Gone) -> None:
    """Write a near-duplicate forest less its gone images: what was linked through one stays linked, as in a balance
    that it is blocked in."""
    table = parquet.read_table(path)
    ends = [table[name].to_numpy() for name in ("id_a", "id_b")]
    ids, places = np.unique(np.concatenate(ends), return_inverse=True)
    a, b = places[: table.num_rows], places[table.num_rows :]
    whole = Edges(a=a, b=b, distance=table["distance"].to_numpy())
    left = without_nodes(len(ids), whole, np.isin(ids, gone.image_ids))
    reach = float((table.schema.metadata or {})[b"max_distance"])
    write_forest(ids, left.take(np.lexsort((left.b, left.a, left.distance))), target, reach)


def rewrite_tar(path: Path, target: Path, gone: Gone) -> pa.Table:
    """Write a tar less the samples of gone images, and less their captions where others have got them; returns the
    index of what is left. Other samples stay as the bytes that they are."""
    write_samples(_samples(path, gone), target)
    return index_tar(target)


def rewrite_index(path: Path, target: Path, left: pa.Table | None) -> None:
    """Write the index of a tar of which ``left`` is left; none for images whose bytes lie elsewhere."""
    before = read_index(path)
    elsewhere = before.filter(before["tar"].is_valid())
    parts = [elsewhere]
    if left is not None:
        named = np.isin(left["image_id"].to_numpy(), before["image_id"].to_numpy())
        parts.append(left.filter(pa.array(named)))
    table = pa.concat_tables([part.select(schema.TAR_INDEX.names).cast(schema.TAR_INDEX) for part in parts])
    parquet.write_table(table.sort_by("key"), target)


def tars_elsewhere(path: Path, gone: Gone) -> set[str]:
    """The tars outside the root that an index names for images that go; they are not touched."""
    table = read_index(path)
    return set(table.filter(pa.array(gone.rows(table)))["tar"].drop_null().to_pylist())


def _samples(path: Path, gone: Gone) -> Iterator[bytes]:
    reader = TarReader(path)
    # In their own order, which need not be that of their keys.
    for row in index_tar(path).sort_by("offset").to_pylist():
        if _has(gone.image_ids, row["image_id"]):
            continue
        content: bytes | None = reader.raw(row["offset"], row["size"])
        if _has(gone.touched, row["image_id"]):
            content = _less_captions(reader.sample(row["offset"], row["size"]), row["key"], content, gone)
        if content is not None:
            yield content


def _less_captions(members: dict[str, bytes], key: str, content: bytes | None, gone: Gone) -> bytes | None:
    """A sample without the captions that go; none where no caption is left, and what it is where none goes."""
    said: dict[str, Any] = json.loads(members["json"])
    if "sample_ids" not in said:
        return content
    stay = [place for place, sample_id in enumerate(said["sample_ids"]) if not _has(gone.sample_ids, sample_id)]
    if len(stay) == len(said["sample_ids"]):
        return content
    if not stay:
        return None
    for name in ("sample_ids", "captions"):
        said[name] = [said[name][place] for place in stay]
    buffer = io.BytesIO()
    np.save(buffer, np.load(io.BytesIO(members["text.npy"]), allow_pickle=False)[stay], allow_pickle=False)
    changed = {"txt": said["captions"][0].encode(), "json": json.dumps(said).encode(), "text.npy": buffer.getvalue()}
    return sample_bytes(key, members | changed)


def _has(ids: np.ndarray, value: int) -> bool:
    place = int(np.searchsorted(ids, value))
    return place < len(ids) and int(ids[place]) == value


def _layout(file: pq.ParquetFile) -> dict[str, Any]:
    """Options by which a file is written as this one was."""
    options: dict[str, Any] = {"compression": "zstd"}
    if file.num_row_groups and file.metadata.num_columns:
        group = file.metadata.row_group(0)
        columns = [group.column(place) for place in range(group.num_columns)]
        options["compression"] = columns[0].compression.lower().replace("uncompressed", "none")
        options["use_dictionary"] = [column.path_in_schema for column in columns if column.has_dictionary_page]
        options["write_statistics"] = [column.path_in_schema for column in columns if column.is_stats_set]
    return options

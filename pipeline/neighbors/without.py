"""The near-duplicate forest of a set without some of its images, as if they had never been there.

Images that were linked only through one that is left out are no longer linked, and where a path went through it, a
longer edge may take its place. (:func:`pipeline.graph.without_nodes` is the other thing: it keeps those links.)

The forest says where to look. With ties broken by id, an edge that belongs to the minimum spanning forest of a set
belongs to that of every part of it that holds both ends: a cycle on which it is the longest would be there already. So
all edges between images that stay are kept. What is missing can only join the *fragments* that a component of the
forest has fallen into; all else is farther apart than the forest reaches. Pairs within the largest fragment of each
component are known and are not searched again.
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compute.map import ComputeConfig
from pipeline.core import parquet, schema
from pipeline.core.devices import Wanted
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.graph.forest import components, concatenate
from pipeline.neighbors.lower_bound import Precision
from pipeline.neighbors.search import near_duplicate_forest, write_forest
from pipeline.neighbors.workspace import BaseForest
from pipeline.vectors.read import EmbeddingFile, checked_batches, inspect, unique_ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutReport:
    """``samples`` are left after ``dropped``; ``searched`` of them, of components that fell apart, were looked at again
    in ``pairs``, which found ``added`` edges that the whole forest had not."""

    samples: int
    dropped: int
    searched: int
    pairs: int
    added: int
    edges: int
    max_distance: float
    seconds: float


def forest_without(
    embeddings: Path | Sequence[Path],
    forest: Path,
    dropped: np.ndarray,
    output: Path,
    *,
    column: str = "image_embedding",
    id_column: str = "sample_id",
    prefix: int | None = None,
    precision: Precision | Literal["auto"] = "auto",
    device: Wanted = "auto",
    tile_rows: int | None = None,
    memory_limit: int | str = "4GB",
    compute: ComputeConfig | None = None,
    work: Path | None = None,
) -> WithoutReport:
    """Write what :func:`near_duplicate_forest` would find among the images that are not ``dropped``, to the last bit.

    Args:
        embeddings: Parquet files, or a folder of them, of all images.
        forest: what :func:`near_duplicate_forest` has written for them; the new one reaches as far.
        dropped: (N,) ids to leave out; it does not matter if one stands twice.
        output: the file to write.
        column: the vectors' column.
        id_column: the ids' column.
        prefix: as for the forest, like all that follow.
        precision: of the products that find candidates.
        device: where tiles are searched.
        tile_rows: of one side of a tile.
        memory_limit: of the search for what is missing.
        compute: on which processes or machines.
        work: folder for intermediate files; none means a hidden one beside ``output``.

    Returns:
        Counts and seconds.

    Raises:
        ConfigError: for a file that is no forest, or a memory limit that will not do.
        EmbeddingError: for embeddings that cannot be searched, are not those of the forest, or lack a dropped id.
    """
    started = time.monotonic()
    base = BaseForest(forest=forest, embeddings=())
    if not base.reach():
        raise ConfigError(f"{forest}: does not say up to which distance it holds; it is no near-duplicate forest")
    files = inspect(embeddings, column=column, id_column=id_column)
    ids = unique_ids(files, id_column=id_column)
    gone = _places(ids, dropped, id_column)
    edges = base.edges(ids)
    kept = edges.take(~(gone[edges.a] | gone[edges.b]))
    searched, known = _fallen_apart(components(len(ids), edges), components(len(ids), kept), gone)
    pairs, count = 0, len(kept)
    if searched.any():
        work = work or output.with_name(f".{output.name}.work")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        parts = work / "known.parquet", work / "others.parquet"
        _copy(files, [ids[known], ids[searched & ~known]], parts, column=column, id_column=id_column)
        write_forest(ids, kept.take(known[kept.a] & known[kept.b]), work / "base.parquet", base.reach())
        report = near_duplicate_forest(
            parts,
            work / "forest.parquet",
            max_distance=base.reach(),
            column=column,
            id_column=id_column,
            prefix=prefix,
            precision=precision,
            device=device,
            tile_rows=tile_rows,
            memory_limit=memory_limit,
            compute=compute,
            base=BaseForest(forest=work / "base.parquet", embeddings=(parts[0],)),
        )
        found = BaseForest(forest=work / "forest.parquet", embeddings=()).edges(ids)
        kept, pairs = concatenate([kept.take(~searched[kept.a]), found]), report.pairs
        shutil.rmtree(work)
    write_forest(ids, kept.take(np.lexsort((kept.b, kept.a, kept.distance))), output, base.reach())
    return WithoutReport(
        samples=int((~gone).sum()),
        dropped=int(gone.sum()),
        searched=int(searched.sum()),
        pairs=pairs,
        added=len(kept) - count,
        edges=len(kept),
        max_distance=base.reach(),
        seconds=round(time.monotonic() - started, 3),
    )


def _places(ids: np.ndarray, dropped: np.ndarray, id_column: str) -> np.ndarray:
    """Which of ``ids`` (N,) are dropped, (N,) bool."""
    dropped = np.unique(np.asarray(dropped, np.int64))
    gone = np.isin(ids, dropped, assume_unique=True)
    if gone.sum() != len(dropped):
        strange = np.setdiff1d(dropped, ids[gone], assume_unique=True)
        raise EmbeddingError(
            f"{len(strange)} of {len(dropped)} ids to leave out are no {id_column} of the embeddings, e.g. {strange[0]}"
        )
    return gone


def _fallen_apart(before: np.ndarray, after: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes that stay of components that fell apart (N,) bool, and those of them in the largest fragment of theirs.

    ``before`` and ``after`` (N,): the smallest node of each node's component, and of its fragment.
    """
    fragments, sizes = np.unique(after[~gone], return_counts=True)
    component = before[fragments]
    order = np.lexsort((fragments, sizes, component))
    fragments, component = fragments[order], component[order]
    last = np.append(component[1:] != component[:-1], True)[: len(component)]
    alone = last & np.append(True, last[:-1])[: len(component)]
    broken = np.zeros(len(gone), bool)
    broken[component[~alone]] = True
    largest = np.zeros(len(gone), bool)
    largest[fragments[last & ~alone]] = True
    return broken[before] & ~gone, largest[after] & ~gone


def _copy(
    files: Sequence[EmbeddingFile], ids: Sequence[np.ndarray], paths: Sequence[Path], *, column: str, id_column: str
) -> None:
    """Write the rows of each of several sets of ids (ascending) to a file of its own, in the type of the search."""
    half = all(file.type == "halffloat" for file in files)
    dtype = np.float16 if half else np.float32
    writers: dict[Path, pq.ParquetWriter] = {}
    width = 0
    try:
        for file in files:
            for batch_ids, batch in checked_batches(file, column=column, id_column=id_column):
                width = width or batch.shape[1]
                if batch.size and batch.shape[1] != width:
                    raise EmbeddingError(f"{file.path}: embeddings of mixed widths {sorted({batch.shape[1], width})}")
                for wanted, path in zip(ids, paths):
                    rows = wanted[np.minimum(np.searchsorted(wanted, batch_ids), len(wanted) - 1)] == batch_ids
                    if not rows.any():
                        continue
                    vectors = np.ascontiguousarray(batch[rows], dtype)
                    flat = pa.array(vectors.reshape(-1))
                    lists = pa.FixedSizeListArray.from_arrays(flat, width)
                    table = pa.table({id_column: batch_ids[rows], column: lists})
                    if path not in writers:
                        writers[path] = parquet.writer(path, table.schema, use_dictionary=False)
                    writers[path].write_table(table, row_group_size=schema.EMBEDDING_ROW_GROUP)
    finally:
        for writer in writers.values():
            writer.close()

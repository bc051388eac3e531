"""SemDeDup's rule, to compare with: k-means cells, and in each cell an image goes if an earlier one is near enough.

Source: arXiv 2303.09540 and its published code, facebookresearch/SemDeDup. There, images of a cell are ordered by
falling distance to the cell's centroid ("keep hard examples"), and an image is removed if any earlier one, removed or
not, is within the threshold. So does this, with ties in the order going to the smaller ``image_id``. Near-duplicates
in different cells are not seen, which is why it removes less than connected components do. The paper names no image
that stands for a removed one; here that is where the way along nearest earlier images ends, an image that stays.

Cells come from spherical k-means on at most 256 images a cell (faiss's own default), drawn by a hash of the id. Memory:
that sample in the process of faiss, then the largest cell. Nearest earlier images are looked up by a float32 matrix
product and their distance taken by explicit difference; a verdict may err where squared distances differ by 1e-6.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.centers import CENTERS
from pipeline.balance.rules.base import Problem
from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.core.processes import run_alone
from pipeline.vectors.read import checked_batches, inspect, list_matrix

_SAMPLES_PER_CELL = 256
_BATCH_ROWS = 8192
_BLOCK_ROWS = 1024

_CELLS = pa.schema([("image_id", pa.int64()), ("cell", pa.int32()), ("distance", pa.float32())])
_LINKS = pa.schema([("image_id", pa.int64()), ("earlier_id", pa.int64()), ("distance", pa.float32())])


class SemDeDup:
    """Removes an image of a cell for the sake of an earlier one."""

    def removals(self, problem: Problem) -> None:
        cells = problem.scratch / "cells.parquet"
        _make_cells(problem, cells)
        query.view(problem.connection, "cells", [cells])
        links = list(
            _links(
                query.stream(problem.connection, query.sql("pipeline.balance", "semdedup_order"), {}, rows=_BATCH_ROWS)
            )
        )
        problem.connection.register("links", pa.Table.from_batches(links, schema=_LINKS))
        problem.connection.execute(query.sql("pipeline.balance", "semdedup_removals").format(reach=problem.reach))

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        text = "SELECT image_id, earlier_id FROM links WHERE distance <= $threshold::FLOAT ORDER BY image_id"
        links = problem.connection.sql(text, params={"threshold": threshold}).to_arrow_table()
        ids, target = links["image_id"].to_numpy(), links["earlier_id"].to_numpy()
        while len(ids):
            place = np.minimum(np.searchsorted(ids, target), len(ids) - 1)
            goes_on = ids[place] == target
            if not goes_on.any():
                break
            target = np.where(goes_on, target[place], target)
        problem.connection.register("assigned", pa.table({"image_id": ids, "center_id": target}))
        yield from query.stream(problem.connection, query.sql("pipeline.balance", "assigned_distances"), {}, CENTERS)


def _make_cells(problem: Problem, output: Path) -> None:
    config, sample = problem.config, problem.scratch / "sample.parquet"
    parameters = {"seed": config.seed, "images": _SAMPLES_PER_CELL * config.cells}
    rows = 0
    writer = None
    for batch in query.stream(
        problem.connection, query.sql("pipeline.balance", "semdedup_sample"), parameters, rows=_BATCH_ROWS
    ):
        writer = writer or pq.ParquetWriter(sample, batch.schema)
        writer.write_batch(batch)
        rows += batch.num_rows
    if writer is not None:
        writer.close()
    if config.cells > rows:
        raise ConfigError(f"{config.cells} cells asked of {rows} images; k-means needs as many at least")
    options: dict[str, Any] = {"cells": config.cells, "iterations": config.cell_iterations, "seed": config.seed}
    options["id_column"] = problem.embeddings.id_column
    run_alone(_assign_cells, problem.embeddings.paths, sample, output, **options)


def _assign_cells(
    paths: list[Path], sample: Path, output: Path, *, cells: int, iterations: int, seed: int, id_column: str
) -> None:
    """Fit the centroids on the sample and write every embedding's cell and distance to its centroid."""
    from pipeline.vectors.kmeans import NearestCentroids, fit_centroids

    matrix = list_matrix(pq.read_table(sample)["image_embedding"], what=str(sample)).astype(np.float32)
    centroids = fit_centroids(matrix, cells, iterations=iterations, spherical=True, seed=seed)
    nearest = NearestCentroids(centroids)
    with pq.ParquetWriter(output, _CELLS) as writer:
        for file in inspect(paths, id_column=id_column):
            for ids, batch in checked_batches(file, id_column=id_column):
                columns = [ids, *nearest.of(batch.astype(np.float32))]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_CELLS))


def _links(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each image's nearest earlier one; ``batches``: ``cell, image_id, image_embedding``, by cell and order."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    current = -1
    for batch in batches:
        cell, ids = batch.column("cell").to_numpy(), batch.column("image_id").to_numpy()
        matrix = list_matrix(batch.column("image_embedding"), what="image_embedding").astype(np.float32)
        starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
        for start, end in zip(starts, [*starts[1:], len(cell)]):
            if cell[start] != current and held:
                yield _links_of_cell(held)
                held = []
            current = cell[start]
            held.append((ids[start:end], matrix[start:end]))
    if held:
        yield _links_of_cell(held)


def _links_of_cell(parts: list[tuple[np.ndarray, np.ndarray]]) -> pa.RecordBatch:
    ids = np.concatenate([part for part, _ in parts])
    matrix = np.concatenate([part for _, part in parts])
    earlier = np.zeros(len(ids), np.int64)
    distance = np.full(len(ids), np.inf, np.float32)
    # Vectors are of unit length only as far as float16 goes, so the nearest is not always the one of largest product.
    half_norms = np.einsum("ij,ij->i", matrix, matrix) / 2
    for start in range(0, len(ids), _BLOCK_ROWS):
        block = matrix[start : start + _BLOCK_ROWS]
        product = block @ matrix[: start + len(block)].T - half_norms[: start + len(block)]
        later = np.arange(product.shape[1])[None, :] >= np.arange(start, start + len(block))[:, None]
        product[later] = -np.inf
        nearest = product.argmax(axis=1)
        earlier[start : start + len(block)] = nearest
        difference = np.subtract(block, matrix[nearest], dtype=np.float64)
        distance[start : start + len(block)] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    # The first of a cell has none before it.
    return pa.RecordBatch.from_arrays([ids[1:], ids[earlier[1:]], distance[1:]], schema=_LINKS)

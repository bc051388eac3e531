"""One tile of the distance matrix: scores block by block, verdicts on what they leave, the forest of the tile.

A *tile* is what is scheduled, marked as done and computed again after a fault. A GPU takes it whole
(:mod:`pipeline.neighbors.gpu_tile`), a CPU works through it in *blocks* that fit its cache. Of a block with few
candidates each is verified; a crowded one is reduced first. A tile returns its minimum spanning forest, not its pairs,
unless those are what is asked for: then nothing is reduced, and pairs are written as they are found.
"""

import dataclasses
import functools
import json
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import devices, parquet, schema
from pipeline.core.devices import Wanted
from pipeline.graph.forest import Edges, ForestBuilder, concatenate, no_edges
from pipeline.neighbors.distances import Block, Candidates, Taker
from pipeline.neighbors.lower_bound import Bound, column_batches, plain_candidates, right_columns
from pipeline.neighbors.pack import mapped, release

if TYPE_CHECKING:
    from torch import Tensor

TILE_ROWS: dict[str, int] = {"cpu": 16_384, "cuda": 524_288}
"""Rows of a side of a tile where nothing else is asked for. A GPU is done with one of its own in about a second."""

BLOCK_ROWS = 2048
# Pairs of a row group.
_WRITTEN = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """Rows ``[rows[0], rows[1])`` against columns, both numbers of distinct vectors; ``folder`` is the search's.
    ``device``: what is wanted, which the process that searches it makes the best of. ``all_pairs`` are wanted, or their
    forest."""

    folder: Path
    rows: tuple[int, int]
    columns: tuple[int, int]
    device: Wanted
    threads: int
    all_pairs: bool = False

    @property
    def output(self) -> Path:
        """Its counts and its forest; it is done when this is there."""
        return self.folder / "tiles" / f"{self.rows[0]:012d}-{self.columns[0]:012d}.npz"

    @property
    def pairs_output(self) -> Path:
        """Its near pairs by id, if they are wanted and there are any."""
        return self.output.with_suffix(".parquet")

    @property
    def pairs(self) -> int:
        rows, columns = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        return rows * (rows - 1) // 2 if self.rows == self.columns else rows * columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileResult:
    """``candidates`` pairs were left by the scores, ``verified`` of them compared in full."""

    path: Path
    pairs: int
    candidates: int
    verified: int


def run_tile(tile: Tile) -> TileResult:
    """Search one tile and write its forest, as row numbers, or its pairs, and last ``tile.output``; each appears whole
    or not at all. Runs in any process."""
    device = devices.resolve(tile.device)
    edges = no_edges()
    if tile.all_pairs:
        with _PairWriter(tile) as writer:
            candidates, verified = _pairs_on_gpu(tile, device, writer) if device != "cpu" else _on_cpu(tile, writer)
    elif device == "cpu":
        builder = ForestBuilder(_search(tile.folder).nodes)
        candidates, verified = _on_cpu(tile, builder)
        edges = builder.forest()
    else:
        from pipeline.neighbors.gpu_tile import open_search

        edges, candidates = open_search(tile.folder, device).forest(tile.rows, tile.columns)
        verified = candidates
    write_edges(tile.output, edges, candidates=candidates, verified=verified)
    return read_result(tile)


def _on_cpu(tile: Tile, taker: Taker) -> tuple[int, int]:
    """Hand near pairs to ``taker``; returns the numbers of candidates and of verified ones."""
    search = _search(tile.folder)
    if tile.threads:
        import torch

        torch.set_num_threads(tile.threads)
    found = Candidates(search, taker, reduces=not tile.all_pairs)
    search.scan(tile, found)
    found.flush()
    search.release()
    return found.candidates, found.verified


def _pairs_on_gpu(tile: Tile, device: str, taker: Taker) -> tuple[int, int]:
    from pipeline.neighbors.gpu_tile import open_search

    candidates = 0
    for edges, count in open_search(tile.folder, device).pairs(tile.rows, tile.columns):
        taker.add(edges)
        candidates += count
    return candidates, candidates


class _PairWriter:
    """Writes the near pairs of a tile by id, as they come; no file if there is none."""

    def __init__(self, tile: Tile):
        self._path, self._ids = tile.pairs_output, np.load(tile.folder / "ids.npy", mmap_mode="r")
        self._temporary = self._path.with_name(f".{self._path.name}")
        self._held, self._count = list[Edges](), 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: types.TracebackType | None) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            if kind is None:
                self._temporary.replace(self._path)

    def add(self, edges: Edges) -> None:
        self._held.append(edges)
        self._count += len(edges)
        if self._count >= _WRITTEN:
            self._flush()

    def _flush(self) -> None:
        if not self._count:
            return
        if self._writer is None:
            self._writer = parquet.writer(self._temporary, schema.NEAR_DUPLICATES, compression="zstd")
        edges = concatenate(self._held)
        columns = [self._ids[edges.a], self._ids[edges.b], edges.distance]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=schema.NEAR_DUPLICATES), row_group_size=_WRITTEN)
        self._held, self._count = [], 0


def let_go() -> None:
    """Close the search of this process; on a GPU, free what it holds there."""
    _search_at.cache_clear()
    if "pipeline.neighbors.gpu_tile" in sys.modules:
        from pipeline.neighbors import gpu_tile as device_search

        device_search.let_go()


def write_edges(path: Path, edges: Edges, *, candidates: int = 0, verified: int = 0) -> None:
    """Write edges and counts; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        counts = {"candidates": np.int64(candidates), "verified": np.int64(verified)}
        np.savez(file, a=edges.a, b=edges.b, distance=edges.distance, **counts)  # type: ignore[arg-type]
    temporary.replace(path)


def read_edges(path: Path) -> Edges:
    with np.load(path, allow_pickle=False) as content:
        return Edges(a=content["a"], b=content["b"], distance=content["distance"])


def read_result(tile: Tile) -> TileResult:
    """The counts of a finished tile."""
    with np.load(tile.output, allow_pickle=False) as content:
        counts = {name: int(content[name]) for name in ("candidates", "verified")}
    return TileResult(path=tile.output, pairs=tile.pairs, **counts)


class Search:
    """The files of a search, mapped: columns of the scores, vectors, and which vector a column row stands for."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "search.json").read_text())
        self.bound = Bound(**content["bound"])
        self.nodes, width = content["rows"], content["width"]
        self.distinct = np.load(folder / "distinct.npy", mmap_mode="r")
        self._numbers = np.load(folder / "numbers.npy", mmap_mode="r")
        self._vectors = np.memmap(folder / "vectors.bin", np.dtype(content["dtype"]), "r", shape=(self.nodes, width))
        self._columns: np.ndarray | None = None
        if (folder / "columns.bin").exists():
            stored = np.int16 if self.bound.precision == "bfloat16" else np.float32
            shape = (content["distinct"], self.bound.columns)
            self._columns = np.memmap(folder / "columns.bin", stored, "r", shape=shape)
        self._basis = np.load(folder / "basis.npy")
        self.rows = mapped(self._vectors)
        self._scores: Tensor | None = None

    def columns(self, start: int, stop: int) -> "Tensor":
        """Left columns (stop - start, C); made here where a GPU was expected, which would have made its own."""
        import torch

        if self._columns is None:
            basis = torch.from_numpy(self._basis)
            return torch.cat(list(column_batches(self.rows, self.distinct[start:stop], basis, self.bound)))
        part = torch.from_numpy(np.array(self._columns[start:stop]))
        return part.view(torch.bfloat16) if part.dtype == torch.int16 else part

    def numbered(self, edges: Edges) -> Edges:
        """Edges between rows as edges between their numbers, the smaller first."""
        a, b = self._numbers[edges.a], self._numbers[edges.b]
        return Edges(a=np.minimum(a, b), b=np.maximum(a, b), distance=edges.distance)

    def scan(self, tile: Tile, found: Candidates) -> None:
        """Hand the candidates of every block to ``found``."""
        size = BLOCK_ROWS
        left = self.columns(*tile.rows)
        right = right_columns(self.columns(*tile.columns), self.bound)
        if self._scores is None:
            # One buffer for all blocks: fresh memory would be mapped and cleared every time.
            self._scores = left.new_empty(size * size)
        for i in range(0, len(left), size):
            for j in range(i if tile.rows == tile.columns else 0, len(right), size):
                block = Block(
                    row=tile.rows[0] + i,
                    column=tile.columns[0] + j,
                    rows=len(left[i : i + size]),
                    columns=len(right[j : j + size]),
                    same=tile.rows == tile.columns and i == j,
                )
                sides = left[i : i + size], right[j : j + size]
                a, b = plain_candidates(*sides, self.bound.min_score, block.same, buffer=self._scores)
                found.add(block, a, b)

    def release(self) -> None:
        release(self._vectors)
        if self._columns is not None:
            release(self._columns)


@functools.lru_cache(maxsize=1)
def _search_at(folder: Path, _changed: int) -> Search:
    return Search(folder)


def _search(folder: Path) -> Search:
    """The search of this process, opened once."""
    return _search_at(folder, (folder / "search.json").stat().st_mtime_ns)

"""The pair search on a GPU: vectors, scores, verdicts and forests stay there; what comes back is a tile's forest.

A *span* is a range of distinct vectors on the device with its score columns, which are made there, from the vectors.
Two spans make a tile. Blocks of scores that hold a candidate are found by one kernel over the whole tile, their
candidates are compared in full by another, and what is near is reduced to a forest by Borůvka's algorithm. So a crowded
block needs no care of its own: each of its pairs costs the reading of two vectors.
"""

import collections
import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.core.devices import gpu_memory_returned
from pipeline.core.errors import ConfigError
from pipeline.graph.boruvka import DeviceEdges, join, spanning_forest
from pipeline.graph.forest import Edges
from pipeline.neighbors import gpu_kernels as kernels
from pipeline.neighbors.lower_bound import Bound, left_columns, right_columns

if TYPE_CHECKING:
    from torch import Tensor

# Rows whose float64 copies are held at a time while score columns are made.
_COLUMN_ROWS = 1 << 15
# Candidates that are verified at a time, and edges that are held before they are reduced to a forest.
_CANDIDATES, _HELD = 1 << 24, 1 << 24
_COPIED_ROWS = 1 << 14
# Of a row that is padding: far below every score.
_FAR = -1e4
# Share of the device's free memory that spans may fill.
_SHARE = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """``numbers`` (n,) int64: row numbers; ``vectors`` (n, D) as stored; ``left`` and ``right``: their columns on
    either side of the product, padded in both directions with what adds nothing and is never a candidate."""

    numbers: "Tensor"
    vectors: "Tensor"
    left: "Tensor"
    right: "Tensor"

    @classmethod
    def of(cls, numbers: "Tensor", vectors: "Tensor", basis: "Tensor", bound: Bound) -> "Span":
        """Make the columns where ``vectors`` are; ``basis`` (D, >= prefix) float64 there too."""
        parts = [left_columns(part, basis, bound) for part in vectors.split(_COLUMN_ROWS)]
        columns = torch.cat(parts)
        depth = kernels.SHAPES[bound.precision].depth
        rows, width = (-(-size // by) * by for size, by in zip(columns.shape, (kernels.ROW_MULTIPLE, depth)))
        left = columns.new_zeros((rows, width))
        left[: len(columns), : bound.columns] = columns
        left[len(columns) :, bound.height_column] = _FAR
        left[len(columns) :, bound.ones] = 1
        right = torch.zeros_like(left)
        right[:, : bound.columns] = right_columns(left[:, : bound.columns], bound)
        return cls(numbers=numbers, vectors=vectors, left=left, right=right)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.numbers, self.vectors, self.left, self.right))


@dataclasses.dataclass(kw_only=True)
class Found:
    """The forest of a tile, and how many pairs its scores left to be compared in full."""

    edges: DeviceEdges
    candidates: int


def search_spans(first: Span, second: Span, bound: Bound, *, nodes: int) -> Found:
    """The forest of all pairs of a row of ``first`` and one of ``second``, or of pairs within them if they are one.

    ``nodes``: row numbers stay below it.
    """
    none = first.numbers.new_empty(0)
    held, count, total = [DeviceEdges(a=none, b=none, distance=none.float())], 0, 0
    for near, looked_at in near_pairs(first, second, bound):
        total += looked_at
        held.append(near)
        count += len(near)
        if count > _HELD:
            held = [spanning_forest(nodes, join(held))]
            count = len(held[0])
    return Found(edges=spanning_forest(nodes, join(held)), candidates=total)


def near_pairs(first: Span, second: Span, bound: Bound) -> "Iterator[tuple[DeviceEdges, int]]":
    """The same pairs, all of them, in parts: edges by row number, and how many candidates were looked at for them."""
    for a, b in candidates(first, second, bound):
        yield _near(first, second, a, b, bound.max_distance), len(a)


def candidates(first: Span, second: Span, bound: Bound) -> "Iterator[tuple[Tensor, Tensor]]":
    """Positions (a, b) int32 of pairs with a score of at least the bound's, in parts; of one span those with a < b."""
    same, least = first is second, bound.min_score
    flags = kernels.flag_blocks(first.left, second.right, least, bound.precision, same=same)
    # nonzero's result may lie in memory column by column.
    blocks = flags.nonzero().int().contiguous()
    sides = len(first), len(second)
    counts = kernels.count_candidates(first.left, second.right, blocks, sides, least, bound.precision, same=same)
    ends = counts.cumsum(0)
    start = done = 0
    while start < len(blocks):
        # The last block that is done with by so many candidates; a block by itself always fits.
        stop = max(int(torch.searchsorted(ends, done + _CANDIDATES, right=True)), start + 1)
        total = int(ends[stop - 1]) - done
        yield kernels.emit_candidates(
            first.left, second.right, blocks[start:stop], counts[start:stop], sides, least, bound.precision,
            same=same, total=total,
        )  # fmt: skip
        start, done = stop, done + total


def _near(first: Span, second: Span, a: "Tensor", b: "Tensor", max_distance: float) -> DeviceEdges:
    """Candidates whose float32 distance is at most ``max_distance``, by row numbers, the smaller first."""
    distance = kernels.squared_distances(first.vectors, second.vectors, a, b).sqrt_().float()
    near = distance <= torch.tensor(max_distance, dtype=torch.float32, device=distance.device)
    ends = first.numbers[a[near]], second.numbers[b[near]]
    return DeviceEdges(a=torch.minimum(*ends), b=torch.maximum(*ends), distance=distance[near])


class DeviceSearch:
    """The files of a search, and as many of its spans as the device has room for. Raises :class:`ConfigError` for
    tiles that it has no room for."""

    def __init__(self, folder: Path, device: str):
        content = json.loads((folder / "search.json").read_text())
        self.bound, self.nodes, self.device = Bound(**content["bound"]), content["rows"], torch.device(device)
        shape, dtype = (self.nodes, content["width"]), np.dtype(content["dtype"])
        self._vectors = np.memmap(folder / "vectors.bin", dtype, "r", shape=shape)
        self._distinct = np.load(folder / "distinct.npy", mmap_mode="r")
        self._numbers = np.load(folder / "numbers.npy", mmap_mode="r")
        self._basis = torch.from_numpy(np.load(folder / "basis.npy")).to(self.device)
        self._spans: collections.OrderedDict[tuple[int, int], Span] = collections.OrderedDict()

    def forest(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Edges, int]:
        """The forest of the tile ``rows`` by ``columns``, on the host, and its number of candidates."""
        with self._fitting(rows, columns):
            found = search_spans(*self._sides(rows, columns), self.bound, nodes=self.nodes)
        return on_host(found.edges), found.candidates

    def pairs(self, rows: tuple[int, int], columns: tuple[int, int]) -> Iterator[tuple[Edges, int]]:
        """All near pairs of the tile, on the host, in parts, with the number of candidates of each part."""
        with self._fitting(rows, columns):
            for near, looked_at in near_pairs(*self._sides(rows, columns), self.bound):
                yield on_host(near), looked_at

    def _sides(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Span, Span]:
        first = self._span(rows)
        return first, first if rows == columns else self._span(columns)

    @contextlib.contextmanager
    def _fitting(self, rows: tuple[int, int], columns: tuple[int, int]) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._spans.clear()
            raise ConfigError(
                f"a tile of {rows[1] - rows[0]:,} by {columns[1] - columns[0]:,} vectors of width "
                f"{self._vectors.shape[1]} does not fit the memory of {self.device}; set neighbors.tile_rows lower"
            ) from error

    def _span(self, span: tuple[int, int]) -> Span:
        if span in self._spans:
            self._spans.move_to_end(span)
            return self._spans[span]
        # Before it is made: two are needed, and the last one may be the other of this tile.
        while len(self._spans) > 1 and self._full(span):
            self._spans.popitem(last=False)
        rows = np.asarray(self._distinct[slice(*span)])
        numbers = torch.from_numpy(self._numbers[rows]).to(self.device)
        self._spans[span] = Span.of(numbers, to_device(self._vectors, rows, self.device), self._basis, self.bound)
        return self._spans[span]

    def _full(self, span: tuple[int, int]) -> bool:
        if self.device.type != "cuda":
            return False
        row_bytes = self._vectors.shape[1] * self._vectors.itemsize + 8 * self.bound.columns
        held = sum(held.nbytes for held in self._spans.values())
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return held + (span[1] - span[0]) * row_bytes > _SHARE * free


def to_device(vectors: np.ndarray, rows: np.ndarray, device: "torch.device") -> "Tensor":
    """(len(rows), D): those ``rows`` of ``vectors`` on the device, by way of two buffers that it can fetch from itself:
    while one is copied the other is filled."""
    first = torch.from_numpy(vectors[:1].copy())
    found = torch.empty((len(rows), vectors.shape[1]), dtype=first.dtype, device=device)
    pinned = device.type == "cuda"
    buffers = [torch.empty((_COPIED_ROWS, vectors.shape[1]), dtype=first.dtype, pin_memory=pinned) for _ in range(2)]
    fetched = [torch.cuda.Event() for _ in buffers] if pinned else []
    for number, start in enumerate(range(0, len(rows), _COPIED_ROWS)):
        part = rows[start : start + _COPIED_ROWS]
        buffer = buffers[number % 2]
        if pinned and number > 1:
            fetched[number % 2].synchronize()
        # `clip` keeps numpy from going through a copy of its own.
        np.take(vectors, part, axis=0, out=buffer.numpy()[: len(part)], mode="clip")
        found[start : start + len(part)].copy_(buffer[: len(part)], non_blocking=True)
        if pinned:
            fetched[number % 2].record()
    if pinned:
        # The buffers go, so what was started with them must be over.
        torch.cuda.current_stream(device).synchronize()
    return found


def on_host(edges: DeviceEdges) -> Edges:
    return Edges(**{name: getattr(edges, name).cpu().numpy() for name in ("a", "b", "distance")})


@functools.lru_cache(maxsize=1)
def _opened(folder: Path, device: str, _changed: int) -> DeviceSearch:
    return DeviceSearch(folder, device)


def open_search(folder: Path, device: str) -> DeviceSearch:
    """The search of this process, opened once."""
    return _opened(folder, device, (folder / "search.json").stat().st_mtime_ns)


def let_go() -> None:
    """Free what the search of this process holds on the device, for whoever uses it next."""
    with gpu_memory_returned():
        _opened.cache_clear()

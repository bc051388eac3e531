"""A pair search and its files: prepared once, worked through tile by tile, merged; resumed from what is there.

The folder of a search holds ``vectors.bin``, ``ids.npy``, ``numbers.npy``, ``distinct.npy``, ``repeats.npz``,
``basis.npy``, for tiles on a CPU ``columns.bin``, then ``search.json``, written last, and one file in ``tiles/`` for
every tile that is done.
"""

import dataclasses
import itertools
import json
import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import parquet
from pipeline.core.devices import Device, Wanted
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.core.files import file_identity, fingerprint_of, write_text_atomically
from pipeline.core.progress import Progress
from pipeline.graph.forest import Edges, ForestBuilder
from pipeline.neighbors.cost import ForestPlan, calibrate, memory_needed
from pipeline.neighbors.lower_bound import Bound, Precision, column_batches
from pipeline.neighbors.pack import Packed, Side, mapped, pack, release
from pipeline.neighbors.tile import (
    Tile,
    TileResult,
    read_edges,
    read_result,
    run_tile,
    write_edges,
)
from pipeline.vectors.read import read_ids

log = logging.getLogger(__name__)

# Raised whenever files of an unfinished search could no longer be used.
_VERSION = 3
_MERGED_TOGETHER = 16
# Batches of columns after which the pages of the vectors are given back: the matrix is never in memory as a whole.
_RELEASED_AFTER = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What is searched and how; see :func:`pipeline.neighbors.search.near_duplicate_forest`.

    ``sides``: one, of whose pairs the forest is wanted, or two, between which all pairs are.
    """

    sides: tuple[Side, ...]
    max_distance: float
    prefix: int | None
    precision: Precision | Literal["auto"]
    device: Device
    """Where tiles are expected to be searched: what is prepared, and how, depends on it; what is found does not."""
    tile_rows: int
    workers: int
    base: "BaseForest | None"

    def peak_memory(self, rows: int) -> int:
        """Upper bound in bytes, of all processes on one machine."""
        return memory_needed(
            rows, tile_rows=self.tile_rows, workers=self.workers, device=self.device, all_pairs=len(self.sides) > 1
        )

    def identity(self) -> str:
        """A hash of all that files of an unfinished search depend on; of how they are made, only the division."""
        sides = [[[file_identity(path) for path in side.paths], side.column, side.id_column] for side in self.sides]
        base = self.base.identity() if self.base else None
        return fingerprint_of(_VERSION, sides, self.max_distance, self.tile_rows, base)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseForest:
    """A finished forest and the embedding files that it covers, all of them among those of the new search."""

    forest: Path
    embeddings: tuple[Path, ...]

    def identity(self) -> Any:
        return [file_identity(self.forest), [file_identity(path) for path in self.embeddings]]

    def ids(self, id_column: str) -> np.ndarray:
        """The ids that the forest covers, ascending."""
        columns = [read_ids(path, id_column) for path in self.embeddings]
        return np.sort(np.concatenate([np.empty(0, np.int64), *columns]))

    def reach(self) -> float:
        return float((pq.read_schema(self.forest).metadata or {}).get(b"max_distance", b"0"))

    def edges(self, ids: np.ndarray) -> Edges:
        """The forest's edges in the row numbers of ``ids``."""
        table = parquet.read_table(self.forest)
        ends = [table[end].to_numpy() for end in ("id_a", "id_b")]
        a, b = (np.searchsorted(ids, end) for end in ends)
        strange = np.concatenate([end[ids[np.minimum(at, len(ids) - 1)] != end] for at, end in zip((a, b), ends)])
        if len(strange):
            raise EmbeddingError(
                f"{self.forest}: {len(strange)} ends of edges are no ids of these embeddings, e.g. {strange[0]}"
            )
        return Edges(a=a, b=b, distance=table["distance"].to_numpy())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSearch:
    """A search whose files are all written: what tiles and merging need to know. ``first``: rows of the first of two
    sides."""

    folder: Path
    rows: int
    distinct: int
    old: int
    first: int | None
    tile_rows: int
    prefix: int
    precision: str
    plan: str

    @classmethod
    def open(cls, folder: Path) -> "PreparedSearch | None":
        """What an earlier call left prepared here, if it came so far."""
        try:
            content = json.loads((folder / "search.json").read_text())
        except FileNotFoundError:
            return None
        bound = content["bound"]
        return cls(
            folder=folder,
            prefix=bound["prefix"],
            precision=bound["precision"],
            **{key: content[key] for key in ("rows", "distinct", "old", "first", "tile_rows", "plan")},
        )

    @property
    def ids(self) -> np.ndarray:
        return np.asarray(np.load(self.folder / "ids.npy"))

    def tiles(self, device: Wanted, threads: int) -> list[Tile]:
        """All tiles, in a fixed order."""
        ranges = _ranges(self.old, self.distinct, self.first, self.tile_rows)
        return [
            Tile(
                folder=self.folder,
                rows=rows,
                columns=columns,
                device=device,
                threads=threads,
                all_pairs=self.first is not None,
            )
            for rows, columns in ranges
        ]


_Range = tuple[int, int]


def tile_ranges(old: int, distinct: int, tile_rows: int) -> list[tuple[_Range, _Range]]:
    """Row and column ranges of all tiles: every pair once that is not within ``[0, old)``."""
    cuts = [*range(0, old, tile_rows), *range(old, distinct, tile_rows), distinct]
    spans = list(itertools.pairwise(cuts))
    return [(spans[i], spans[j]) for i in range(len(spans)) for j in range(i, len(spans)) if spans[j][0] >= old]


def _ranges(old: int, distinct: int, first: int | None, tile_rows: int) -> list[tuple[_Range, _Range]]:
    if first is None:
        return tile_ranges(old, distinct, tile_rows)
    sides = [[*range(0, first, tile_rows), first], [*range(first, distinct, tile_rows), distinct]]
    return list(itertools.product(*(itertools.pairwise(cuts) for cuts in sides)))


def prepare(settings: SearchSettings, folder: Path) -> PreparedSearch:
    """Pack, calibrate and write score columns, unless an earlier call has done so; the other files of ``folder`` go."""
    identity = settings.identity()
    marker = folder / "identity"
    if not marker.exists() or marker.read_text() != identity:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tiles").mkdir(parents=True)
        write_text_atomically(marker, identity)
    return PreparedSearch.open(folder) or _prepare(settings, folder)


def _prepare(settings: SearchSettings, folder: Path) -> PreparedSearch:
    packed = pack(settings.sides, folder)
    distinct, old = _old_first(packed, settings)
    ranges = _ranges(old, len(distinct), packed.first, settings.tile_rows)
    pairs = sum((r[1] - r[0]) * (c[1] - c[0]) // (2 if r == c else 1) for r, c in ranges)
    found = calibrate(
        mapped(packed.matrix),
        distinct,
        max_distance=settings.max_distance,
        prefix=settings.prefix,
        precision=settings.precision,
        device=settings.device,
        pairs=pairs,
    )
    if settings.device == "cpu":
        _write_columns(packed.matrix, distinct, found.basis, found.bound, folder / "columns.bin")
    release(packed.matrix)
    np.save(folder / "basis.npy", found.basis[:, : found.bound.prefix].numpy())
    np.save(folder / "ids.npy", packed.ids)
    np.save(folder / "numbers.npy", packed.numbers)
    np.save(folder / "distinct.npy", distinct)
    write_edges(folder / "repeats.npz", packed.repeats)
    plan = ForestPlan(
        rows=len(packed.ids),
        distinct=len(distinct),
        width=packed.matrix.shape[1],
        bound=found.bound,
        tiles=len(ranges),
        pairs=pairs,
        candidates=int(pairs * found.candidate_share),
        seconds=pairs * found.seconds_per_pair,
        peak_memory=settings.peak_memory(len(packed.ids)),
        disk=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    )
    content = {
        "rows": plan.rows,
        "width": plan.width,
        "distinct": plan.distinct,
        "old": old,
        "first": packed.first,
        "tile_rows": settings.tile_rows,
        "dtype": packed.matrix.dtype.name,
        "bound": dataclasses.asdict(found.bound),
        "plan": str(plan),
    }
    write_text_atomically(folder / "search.json", json.dumps(content, indent=1))
    prepared = PreparedSearch.open(folder)
    assert prepared is not None
    return prepared


def _old_first(packed: Packed, settings: SearchSettings) -> tuple[np.ndarray, int]:
    """Distinct vectors, those that the base covers first, and how many these are."""
    base = settings.base
    if base is None:
        return packed.distinct, 0
    if base.reach() < settings.max_distance:
        raise ConfigError(f"the base forest reaches {base.reach()}, less than max_distance {settings.max_distance}")
    covered = np.isin(
        packed.ids[packed.numbers[packed.distinct]], base.ids(settings.sides[0].id_column), assume_unique=True
    )
    return np.concatenate([packed.distinct[covered], packed.distinct[~covered]]), int(covered.sum())


def _write_columns(matrix: np.ndarray, distinct: np.ndarray, basis: Any, bound: Bound, path: Path) -> None:
    """Score columns of all distinct vectors, as the raw bytes of their type."""
    import torch

    with path.open("wb") as file:
        for number, columns in enumerate(column_batches(mapped(matrix), distinct, basis, bound)):
            raw = columns.view(torch.int16) if columns.dtype == torch.bfloat16 else columns
            file.write(raw.contiguous().numpy().tobytes())
            if number % _RELEASED_AFTER == 0:
                release(matrix)


def run_tiles(
    search: PreparedSearch, compute: ComputeConfig, *, device: Wanted, workers: int, label: str
) -> tuple[list[TileResult], int]:
    """Results of all tiles in a fixed order, and how many were computed by this call."""
    threads = 0 if workers == 1 else 1
    tiles = search.tiles(device, threads)
    pending = [tile for tile in tiles if not tile.output.exists()]
    with (
        Progress(log, label, total=sum(tile.pairs for tile in pending), unit="pairs") as progress,
        map_shards(run_tile, pending, compute, device=device) as finished,
    ):
        for result in finished:
            progress.add(result.pairs)
    return [read_result(tile) for tile in tiles], len(pending)


def merged(search: PreparedSearch, results: list[TileResult], compute: ComputeConfig) -> list[Path]:
    """Forests of the tiles, merged in groups, and these again, until few enough are left to be read one by one."""
    level, paths = 0, [result.path for result in results]
    while len(paths) > _MERGED_TOGETHER:
        groups = [paths[start : start + _MERGED_TOGETHER] for start in range(0, len(paths), _MERGED_TOGETHER)]
        tasks = [
            _Merge(nodes=search.rows, inputs=tuple(group), output=search.folder / f"merged-{level}-{number}.npz")
            for number, group in enumerate(groups)
        ]
        with map_shards(_merge, tasks, compute, device="cpu") as finished:
            for _ in finished:
                pass
        level, paths = level + 1, [task.output for task in tasks]
    return paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Merge:
    nodes: int
    inputs: tuple[Path, ...]
    output: Path


def _merge(task: _Merge) -> None:
    builder = ForestBuilder(task.nodes)
    for path in task.inputs:
        builder.add(read_edges(path))
    write_edges(task.output, builder.forest())

"""What a pair search will cost, before it starts: memory from the row count, time from a short calibration."""

import dataclasses
import time
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.devices import Device
from pipeline.core.errors import ConfigError
from pipeline.core.settings import Size
from pipeline.neighbors.distances import CROWDED, exact_edges
from pipeline.neighbors.lower_bound import (
    Bound,
    Precision,
    extra_columns,
    left_columns,
    plain_candidates,
    principal_axes,
    right_columns,
)
from pipeline.neighbors.tile import BLOCK_ROWS

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLE_ROWS = 2048
# Widths of the product that are tried; whole multiples of what vector units and tensor cores work in.
_WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# On a GPU a call costs more than what a sample has to do, so a trial would tell nothing. These are what an H100 did
# (docs/performance.md): multiplications and additions a second by type, tf32 and float32 estimated; the least width
# that pays; and the seconds of a candidate, with its place in the forest where it is near.
_DEVICE_RATE: dict[Precision, float] = {"bfloat16": 6e14, "tfloat32": 2e14, "float32": 3e13}
_DEVICE_WIDTH = 64
_DEVICE_VERIFY_S = 1e-8
# Seconds that reducing crowded rows takes for each of their pairs, on 2 cores.
_CROWDED_S = 1e-7
# Share of the score's time below which that of the candidates no longer matters.
_SETTLED = 0.1
# Below this many seconds a shorter type is not worth trying.
_WORTH_TRYING_S = 0.4

_INTERPRETER_BYTES = 700 << 20
_ROW_BYTES = 40
_EDGE_BYTES = 110
_BLOCK_BUFFERS = 8
# Candidates that a GPU hands over at a time (`gpu_tile`).
_PART_PAIRS = 1 << 24
SORT_BYTES = 1 << 28
"""The least that putting all pairs into order is given; the search has ended by then, but not all of it is returned."""
# CUDA's libraries and its context, and buffers for copies. On an H100 a process that had held 2.6 GB of vectors peaked
# at 4.2 GB (the part `forest` of benchmarks/gpu).
_CUDA_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForestPlan:
    """``candidates``: as expected from a sample; ``seconds``: of the tiles, on one worker; sizes in bytes."""

    rows: int
    distinct: int
    width: int
    bound: Bound
    tiles: int
    pairs: int
    candidates: int
    seconds: float
    peak_memory: int
    disk: int

    @property
    def operations(self) -> int:
        """Multiply-adds of the scores."""
        return self.pairs * self.bound.columns

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows of width {self.width} ({self.distinct:,} distinct), {self.tiles:,} tiles, "
            f"{self.pairs:.3g} pairs by {self.bound.columns} columns in {self.bound.precision}: "
            f"{self.operations:.2g} multiply-adds, about {self.candidates:.2g} candidates, {self.seconds:.0f} s of "
            f"one worker, at most {self.peak_memory / 2**30:.1f} GiB of memory, {self.disk / 2**30:.1f} GiB on disk"
        )


def memory_needed(rows: int, *, tile_rows: int, workers: int, device: Device, all_pairs: bool = False) -> int:
    """Peak bytes of all processes of a search on one machine, mapped files aside (the kernel takes those back).

    Fixed parts, 40 bytes a row for ids and hashes, the forest and one more while they are merged (110 bytes an edge, at
    most as many edges as rows), and for every worker two tiles of score columns and the buffers of a block; on a GPU,
    whose memory holds those, the forest of a tile instead. Where ``all_pairs`` are wanted there is no forest, but those
    that are written at a time, and their sort.
    """
    if device == "cuda":
        worker = _CUDA_BYTES + (_PART_PAIRS if all_pairs else 2 * tile_rows) * _EDGE_BYTES
    else:
        worker = BLOCK_ROWS**2 * 4 * _BLOCK_BUFFERS * (2 if all_pairs else 1) + 3 * tile_rows * 128 * 4
    return (
        _INTERPRETER_BYTES * (1 + (workers if workers > 1 else 0))
        + rows * (_ROW_BYTES + (0 if all_pairs else 2 * _EDGE_BYTES))
        + workers * worker
        + (SORT_BYTES if all_pairs else 0)
    )


def require_memory(needed: int, limit: int, *, rows: int) -> None:
    """:class:`ConfigError` with both figures if ``needed`` bytes are more than ``limit``."""
    if needed > limit:
        raise ConfigError(
            f"the pair search over {rows:,} rows needs up to {needed / 1e9:.1f} GB of memory, memory_limit is "
            f"{Size(limit)}; raise it, use fewer workers or smaller tiles"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The cheapest bound found, the seconds that a pair takes (its score, and its share of what candidates take), and
    the share of pairs that are left as candidates."""

    bound: Bound
    basis: "Tensor"
    score_s: float
    candidates_s: float
    candidate_share: float

    @property
    def seconds_per_pair(self) -> float:
        return self.score_s + self.candidates_s


def calibrate(
    rows: "Tensor",
    distinct: np.ndarray,
    *,
    max_distance: float,
    prefix: int | None,
    precision: Precision | Literal["auto"],
    device: Device,
    pairs: int,
) -> Calibration:
    """Fit the basis on a sample of the rows and find the cheapest prefix by trying the product on another.

    Args:
        rows: (N, D), unit vectors.
        distinct: (M,) positions of rows that differ from each other, ascending.
        max_distance: Euclidean.
        prefix: coordinates of the bound; none means the cheapest by trial.
        precision: of the product, ``auto`` by trial too.
        device: what the tiles will run on. For a CPU the trial is timed; for a GPU, which need not be this machine's,
            only candidates are counted.
        pairs: pairs of the whole search, over which the costs are spread.

    Returns:
        The bound, its basis, and what a pair costs.
    """
    import torch

    chosen = np.random.default_rng(0).permutation(len(distinct))[: 2 * _SAMPLE_ROWS]
    # A basis holds more of the rows it was fitted on than of others: on those, too short a prefix would look good.
    fitted, tried = (np.sort(distinct[chosen[part::2]]) for part in (0, min(1, len(chosen) - 1)))
    trial = _Trial(rows[torch.from_numpy(fitted)].cpu(), rows[torch.from_numpy(tried)].cpu(), device)
    first: Precision = ("bfloat16" if device == "cuda" else "float32") if precision == "auto" else precision
    best = trial.best(first, max_distance, prefix)
    if precision == "auto" and device == "cpu" and best.seconds_per_pair * pairs > _WORTH_TRYING_S:
        # A shorter type never gets by with a shorter prefix.
        shorter = trial.best("bfloat16", max_distance, prefix, min_columns=best.bound.columns)
        best = min(best, shorter, key=lambda found: found.seconds_per_pair)
    return best


class _Trial:
    """Times the product and counts candidates among the rows of a sample."""

    def __init__(self, fitted: "Tensor", sample: "Tensor", device: Device):
        self._sample, self._device = sample, device
        self._fitted = fitted
        self._basis = principal_axes(fitted, 0)
        self._verify_s = _DEVICE_VERIFY_S if device == "cuda" else self._time_verification()

    def _time_verification(self) -> float:
        sample = self._sample
        pairs = np.arange(min(len(sample), 512))
        exact_edges(sample, pairs, pairs[::-1].copy(), 1.0)
        started = time.perf_counter()
        exact_edges(sample, pairs, pairs[::-1].copy(), 1.0)
        return (time.perf_counter() - started) / max(len(pairs), 1)

    def best(
        self, precision: Precision, max_distance: float, prefix: int | None, *, min_columns: int = 0
    ) -> Calibration:
        width, extra = self._sample.shape[1], extra_columns(precision)
        min_columns = max(min_columns, _DEVICE_WIDTH if self._device == "cuda" else 0)
        lengths = [columns - extra for columns in _WIDTHS if columns >= min_columns and 0 < columns - extra < width]
        lengths = [prefix] if prefix else [*lengths, width]
        best: Calibration | None = None
        for length in lengths:
            if length > width:
                raise ConfigError(f"prefix {length} is longer than the embeddings, which are {width} wide")
            found = self._try(Bound(
                prefix=length, precision=precision, max_distance=max_distance, tensor_cores=self._device == "cuda"
            ))  # fmt: skip
            if best is None or found.seconds_per_pair < best.seconds_per_pair:
                best = found
            if found.candidates_s < _SETTLED * found.score_s:
                # A longer prefix could save no more than that, and its product takes longer.
                break
        assert best is not None
        return best

    def _try(self, bound: Bound) -> Calibration:
        if bound.prefix > self._basis.shape[1]:
            # Most data are settled by a short prefix: only as much of the basis is made as is asked for.
            self._basis = principal_axes(self._fitted, min(4 * bound.prefix, self._fitted.shape[1]))
        left = left_columns(self._sample, self._basis, bound)
        right = right_columns(left, bound)
        a, b = plain_candidates(left, right, bound.min_score, True)
        pairs = max(len(left) * (len(left) - 1) / 2, 1)
        return Calibration(
            bound=bound,
            basis=self._basis,
            score_s=self._score_s(left, right, bound),
            candidates_s=self._candidates_s(a, b, len(left)) / pairs,
            candidate_share=len(a) / pairs,
        )

    def _candidates_s(self, a: np.ndarray, b: np.ndarray, rows: int) -> float:
        """Seconds for the candidates of the sample: crowded rows are reduced together, others verified one by one. A
        GPU verifies all."""
        if self._device == "cuda":
            return len(a) * self._verify_s
        crowded = np.bincount(a, minlength=rows) + np.bincount(b, minlength=rows) > CROWDED
        alone = int((~(crowded[a] & crowded[b])).sum())
        return float(crowded.sum() ** 2 / 2 * _CROWDED_S + alone * self._verify_s)

    def _score_s(self, left: "Tensor", right: "Tensor", bound: Bound) -> float:
        """Seconds of one score: product and row maxima, the better of two trials."""
        if self._device == "cuda":
            return 2 * -(-bound.columns // _DEVICE_WIDTH) * _DEVICE_WIDTH / _DEVICE_RATE[bound.precision]
        times = []
        for _ in range(2):
            started = time.perf_counter()
            float((left @ right.T).amax(dim=1)[0])
            times.append(time.perf_counter() - started)
        return min(times) / max(len(left) ** 2, 1)

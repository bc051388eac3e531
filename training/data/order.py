"""In which order samples are seen: a pure function of seed and epoch, whatever the number of ranks.

Shards are permuted once per epoch and taken in windows of several; samples are permuted within a window. So reading
stays within a few tars, only their indexes are in memory, and any step can be computed without the ones before it:
a resumed run needs no replay, and a global batch is the same for one rank and for many.

With weights an epoch has as many draws as there are samples, by systematic resampling: the samples lie side by side on
a line, each as long as its share of the draws, and points at distance 1 from a random start say which are drawn. So a
sample comes as often as its share says, rounded down or up, and the sums of shards tell where each window begins.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError

WINDOW_SHARDS = 16

_SHARDS, _SAMPLES, _DRAWS = 0, 1, 2


class Weights(Protocol):
    """How much more often one sample is drawn than another; at least one is above 0, none below.

    ``totals``: of each shard, the sum of its rows.
    """

    totals: NDArray[np.float64]

    def rows(self, shard: int) -> NDArray[np.float64]:
        """Of each sample of a shard."""


class SampleOrder:
    """``batch(step)`` gives the samples of one global batch as ``(shard, row)`` pairs.

    ``shard_rows``: samples of each shard. An epoch has ``samples // batch_size`` steps; the incomplete batch at its
    end is dropped, so no batch repeats a sample. Raises :class:`ConfigError` if there are fewer samples than a batch.

    With ``weights`` a sample comes in proportion to its weight, none of weight 0. What comes several times within a
    window comes at equal distances, but in one batch too if that is a larger part of the window than its distance.
    """

    def __init__(
        self,
        shard_rows: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        window_shards: int = WINDOW_SHARDS,
        weights: Weights | None = None,
    ):
        self._rows = np.asarray(shard_rows, dtype=np.int64)
        self.samples = int(self._rows.sum())
        self.batch_size, self._seed, self._window_shards = batch_size, seed, window_shards
        self._weights = weights
        if self.samples < batch_size:
            raise ConfigError(f"batch_size is {batch_size}, but there are only {self.samples} training samples")
        self.steps_per_epoch = self.samples // batch_size
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self._window = functools.lru_cache(maxsize=4)(self._make_window)

    def batch(self, step: int) -> NDArray[np.int64]:
        """``(batch_size, 2)``: shard number and row in that shard, for the step counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        _, starts = self._epoch(epoch)
        first, last = index * self.batch_size, (index + 1) * self.batch_size
        windows = range(
            int(np.searchsorted(starts, first, side="right")) - 1, int(np.searchsorted(starts, last, side="left"))
        )
        pieces = []
        for window in windows:
            start = int(starts[window])
            pieces.append(self._window(epoch, window)[max(first - start, 0) : last - start])
        return np.concatenate(pieces)

    def part(self, step: int, *, rank: int, ranks: int) -> NDArray[np.int64]:
        """This rank's rows of :meth:`batch`."""
        size = self.batch_size // ranks
        return self.batch(step)[rank * size : (rank + 1) * size]

    def _make_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of shards, and at which sample of the epoch each window starts."""
        shards = self._generator(_SHARDS, epoch).permutation(len(self._rows))
        ends = np.cumsum(self._rows[shards]) if self._weights is None else self._drawn(epoch, self._line(shards))
        before = np.concatenate([[0], ends])
        return shards, before[: len(shards) : self._window_shards]

    def _make_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        start, stop = window * self._window_shards, (window + 1) * self._window_shards
        order = self._epoch(epoch)[0]
        generator = self._generator(_SAMPLES, epoch, window)
        if self._weights is not None:
            return self._resampled(epoch, order, range(start, min(stop, len(order))), generator)
        shards = order[start:stop]
        pairs = np.concatenate([np.stack([np.full(self._rows[s], s), np.arange(self._rows[s])], 1) for s in shards])
        return generator.permutation(pairs)

    def _resampled(
        self, epoch: int, order: NDArray[np.int64], places: range, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """What is drawn of the shards at some places of an epoch's order."""
        assert self._weights is not None
        ends = np.concatenate([[0.0], self._line(order)])
        pairs, counts = [], []
        for place in places:
            shard = int(order[place])
            if ends[place] == ends[place + 1]:
                continue
            within = np.cumsum(self._weights.rows(shard))
            bounds = _stretched(within, ends[place], ends[place + 1])
            counts.append(np.diff(self._drawn(epoch, np.concatenate([ends[place : place + 1], bounds]))))
            pairs.append(np.stack([np.full(len(within), shard), np.arange(len(within))], 1))
        if not pairs:
            return np.empty((0, 2), np.int64)
        return _spread(np.concatenate(pairs), np.concatenate(counts), generator)

    def _line(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where each shard ends on the line of the epoch, which is as long as there are draws."""
        assert self._weights is not None
        return _stretched(np.cumsum(self._weights.totals[order]), 0.0, float(self.samples))

    def _drawn(self, epoch: int, bounds: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many of the epoch's points lie before each of some places of the line."""
        first = self._generator(_DRAWS, epoch).random()
        return np.ceil(bounds - first).astype(np.int64)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])


def _stretched(sums: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """Ascending sums from 0 on, brought to a stretch of the line; what adds nothing at its end adds nothing there."""
    bounds = np.minimum(start + sums * ((end - start) / sums[-1]), end)
    return np.where(sums == sums[-1], end, bounds)


def _spread(pairs: NDArray[np.int64], counts: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Each pair as often as its count says, at equal distances from a random first place."""
    drawn = np.repeat(np.arange(len(pairs)), counts)
    number = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = (number + generator.random(len(pairs))[drawn]) / counts[drawn]
    return pairs[drawn[np.argsort(places, kind="stable")]]

"""In which order samples are seen: a pure function of seed and epoch, whatever the number of ranks.

Shards are permuted once per epoch and taken in windows of several; samples are permuted within a window. So reading
stays within a few tars, only their indexes are in memory, and any step can be computed without the ones before it:
a resumed run needs no replay, and a global batch is the same for one rank and for many.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError

WINDOW_SHARDS = 16

_SHARDS, _SAMPLES = 0, 1


class SampleOrder:
    """``batch(step)`` gives the samples of one global batch as ``(shard, row)`` pairs.

    ``shard_rows``: samples of each shard. An epoch has ``samples // batch_size`` steps; the incomplete batch at its
    end is dropped, so no batch repeats a sample. Raises :class:`ConfigError` if there are fewer samples than a batch.
    """

    def __init__(self, shard_rows: Sequence[int], *, batch_size: int, seed: int, window_shards: int = WINDOW_SHARDS):
        self._rows = np.asarray(shard_rows, dtype=np.int64)
        self.samples = int(self._rows.sum())
        self.batch_size, self._seed, self._window_shards = batch_size, seed, window_shards
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
        before = np.concatenate([[0], np.cumsum(self._rows[shards])])
        return shards, before[: len(shards) : self._window_shards]

    def _make_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        shards = self._epoch(epoch)[0][window * self._window_shards : (window + 1) * self._window_shards]
        pairs = np.concatenate([np.stack([np.full(self._rows[s], s), np.arange(self._rows[s])], 1) for s in shards])
        return self._generator(_SAMPLES, epoch, window).permutation(pairs)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

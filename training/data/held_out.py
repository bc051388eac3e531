"""Which samples of a training set are not trained on, so that the loss of others than those can be seen."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError


class HeldOut:
    """``samples`` of shards that have ``shard_rows``: of each its share, the images whose hash with ``seed`` is least.

    So nothing but numbers of rows is known before a shard is opened, and which rows it gives depends on nothing that
    another shard holds. Raises :class:`ConfigError` if there are not as many.
    """

    def __init__(self, shard_rows: Sequence[int], *, samples: int, seed: int):
        ends = np.cumsum(np.asarray(shard_rows, dtype=np.int64))
        total = int(ends[-1]) if len(ends) else 0
        if samples > total:
            raise ConfigError(
                f"student.evaluate.held_out_samples is {samples}, but there are only {total} training samples"
            )
        self._rows, self._seed = list(shard_rows), seed
        self._counts: list[int] = np.diff(ends * samples // max(total, 1), prepend=0).tolist()

    def rows(self, held_out: bool) -> list[int]:
        """The number of rows of each shard that are held out, or that are not."""
        return self._counts if held_out else [rows - count for rows, count in zip(self._rows, self._counts)]

    def mask(self, shard: int, image_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows of a shard are held out."""
        held = np.zeros(len(image_ids), dtype=bool)
        if self._counts[shard]:
            hashes = np.array([_hash(self._seed, int(image_id)) for image_id in image_ids], dtype=np.uint64)
            held[np.argsort(hashes, kind="stable")[: self._counts[shard]]] = True
        return held


def _hash(seed: int, image_id: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"held out:{seed}:{image_id}".encode(), digest_size=8).digest(), "little")

"""How often each training image is seen: what its weight is, and where the ranks of a run find it.

Beside the index of every shard of training shards stands a Parquet file of the same name in another folder, with
``image_id, weight``. :mod:`training.data.weighing` writes it when a run is started, so shards need not know of weights;
weights are joined by ``image_id``, and only those of the shards that are read are in memory.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core import parquet
from pipeline.core.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from training.data.dataset import TrainingSet

SCHEMA = pa.schema([pa.field("image_id", pa.int64()), pa.field("weight", pa.float64())])
"""Of the file of a shard."""

_SETTING = "student.weights_file"


class ShardWeights:
    """Weights of the samples of a training set: of each shard their sum (``totals``), of one shard at a time its rows.

    Raises :class:`ShardError` where an image has none, :class:`ConfigError` where all are 0, or one is none.
    """

    def __init__(self, folder: Path, samples: "TrainingSet"):
        self._folder, self._samples = folder, samples
        self.totals: NDArray[np.float64] = np.array([self.rows(shard).sum() for shard in range(len(samples.shards))])
        total = self.totals.sum()
        if not (np.isfinite(total) and total > 0):
            raise ConfigError(f"{folder}: the weights of all training images sum to {total:g}; some have to be above 0")

    def rows(self, shard: int) -> NDArray[np.float64]:
        """``(rows,)``, in the order of the shard's samples."""
        ids, path = self._samples.image_ids(shard), self._folder / f"{self._samples.shards[shard]}.parquet"
        if not len(ids):
            return np.empty(0)
        if not path.is_file():
            raise ShardError(f"{path}: the weights of this shard of training images are missing")
        table = parquet.read_table(path, columns=SCHEMA.names)
        known, weights = table["image_id"].to_numpy(), table["weight"].to_numpy()
        order = np.argsort(known)
        place = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
        found = order[place]
        missing = ids[known[found] != ids]
        if len(missing):
            raise ShardError(f"{path}: {len(missing)} of {len(ids)} training images have no weight, e.g. {missing[0]}")
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(wrong):
            raise ConfigError(f"{path}: {weights[wrong[0]]:g} of image {known[wrong[0]]} is no weight, 0 or above")
        return np.asarray(weights[found])


def read_cluster_weights(
    path: Path, *, clusters: int | None = None, clusters_digest: str | None = None
) -> NDArray[np.float64]:
    """Weights ``(K,)`` by cluster, from Parquet with ``cluster_id`` and ``weight``, or ``gap`` as in
    ``cluster_accuracy``.

    A ``weight`` is taken as it is. A ``gap`` becomes 1 + max(gap, 0): a cluster in which the student is as good as the
    teacher has weight 1, one of which it knows nothing up to 2. A cluster without a gap, of which no image was sampled,
    has the mean of the others. ``clusters`` is K, none if it is not known yet; ``clusters_digest`` what the file's
    metadata has to say, if it says anything.

    Raises :class:`ConfigError`, in one line, for a file that is not there, lacks a column or speaks of other clusters,
    and for weights that are negative, no numbers, or all 0.
    """
    where = f"{_SETTING} {path}"
    if not path.is_file():
        raise ConfigError(f"{where}: no such file")
    table = parquet.read_table(path)
    name = next((name for name in ("weight", "gap") if name in table.column_names), None)
    if name is None or "cluster_id" not in table.column_names:
        raise ConfigError(f"{where}: expected columns cluster_id and weight, or gap, got {table.column_names}")
    made_with = (table.schema.metadata or {}).get(b"clusters_digest", b"").decode()
    if clusters_digest and made_with and made_with != clusters_digest:
        raise ConfigError(f"{where}: it is of other clusters than those of the training shards")
    ids, values = _ids(table["cluster_id"], clusters, where), _values(table[name], name, where)
    weights = np.full(clusters or int(ids.max()) + 1, np.nan)
    weights[ids] = values if name == "weight" else 1 + values.clip(min=0)
    missing = np.flatnonzero(np.isnan(weights))
    if name == "gap":
        weights[missing] = np.nanmean(weights)
    elif clusters and len(missing):
        raise ConfigError(f"{where}: {len(missing)} of {clusters} clusters have no weight, e.g. {missing[0]}")
    if not np.nansum(weights) > 0:
        raise ConfigError(f"{where}: all weights are 0")
    return weights


def _ids(column: pa.ChunkedArray, clusters: int | None, where: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count or not len(column):
        got = f"{column.type} with {column.null_count} nulls in {len(column)} rows"
        raise ConfigError(f"{where}: cluster_id has to be whole numbers, got {got}")
    ids: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    strange = ids[(ids < 0) | (ids >= clusters)] if clusters else ids[ids < 0]
    if len(strange):
        known = f"the {clusters} clusters" if clusters else "the numbers from 0"
        raise ConfigError(f"{where}: cluster {strange[0]} is none of {known}")
    found, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise ConfigError(f"{where}: cluster {found[counts.argmax()]} stands {counts.max()} times")
    return ids


def _values(column: pa.ChunkedArray, name: str, where: str) -> NDArray[np.float64]:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ConfigError(f"{where}: {name} has to be numbers, got {column.type}")
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    wrong = values[~np.isfinite(values) | ((values < 0) & (name == "weight"))]
    if len(wrong):
        bound = ", 0 or above" if name == "weight" else ""
        raise ConfigError(f"{where}: {len(wrong)} of {len(values)} are no {name}{bound}, e.g. {wrong[0]:g}")
    return values

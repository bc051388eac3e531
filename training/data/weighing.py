"""The files of weights of a root's training images, for the stage that trains on them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core import parquet, query
from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.files import fingerprint_of
from pipeline.core.manifest import ShardsManifest
from pipeline.core.query import QueryConfig
from pipeline.storage.result import read_result
from training.config import StudentConfig
from training.config.student import CLUSTER_ERROR, GROUP_SIZE
from training.data.weights import SCHEMA, read_cluster_weights
from training.evaluation.stage import CLUSTERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighing:
    """``digest`` of what decides the weights; ``write(index, folder, scratch=...)`` writes those of the shards whose
    indexes it is given."""

    digest: str
    write: Callable[..., None]


def weighing_of(root: Path, config: StudentConfig, manifest: ShardsManifest) -> Weighing | None:
    """What ``config.weights`` asks for; none for uniform ones. Raises :class:`ConfigError` for a file that does not fit
    the clusters of the training shards, which ``manifest`` is of."""
    if config.weights == GROUP_SIZE:
        balance = read_result(root, "balance")

        def by_group(index: list[Path], folder: Path, *, scratch: Path) -> None:
            write_group_weights(index, balance.parquet("balance_groups"), folder, scratch=scratch)

        return Weighing(digest=balance.digest, write=by_group)
    if config.weights != CLUSTER_ERROR:
        return None
    if config.weights_file is None:
        raise ConfigError("student.weights cluster_error needs student.weights_file")
    path, clusters = Path(config.weights_file), read_result(root, "clusters")
    check_weights_file(path, root)
    weights = read_cluster_weights(path, clusters=manifest.clusters, clusters_digest=manifest.clusters_digest)

    def by_cluster(index: list[Path], folder: Path, *, scratch: Path) -> None:
        write_cluster_weights(index, clusters.parquet("cluster_assignments"), weights, folder, scratch=scratch)

    return Weighing(digest=fingerprint_of(weights.tolist(), clusters.digest), write=by_cluster)


def check_weights_file(path: Path, root: Path | None) -> None:
    """Raise :class:`ConfigError` for weights that the evaluation of the student that they are for would write anew."""
    if root and path.resolve().is_relative_to((root / CLUSTERS).resolve()):
        raise ConfigError(
            f"student.weights_file {path}: the evaluation of this student would write it anew; copy it elsewhere"
        )


def write_group_weights(index: list[Path], groups: list[Path], folder: Path, *, scratch: Path) -> None:
    """Weights by the size of the group of near-duplicates that an image stands for.

    ``index``: of the training shards; ``groups``: files of the table ``balance_groups``. Raises :class:`ShardError` if
    an image of the shards stands for no group.
    """
    parameters = {"index": query.files(index), "groups": query.files(groups)}
    _write("group_weights", parameters, folder, scratch, wanting="a group in balance_groups")


def write_cluster_weights(
    index: list[Path], assignments: list[Path], weights: NDArray[np.float64], folder: Path, *, scratch: Path
) -> None:
    """Weights of clusters, ``(K,)`` as :func:`training.data.weights.read_cluster_weights` gives them, for their images.

    ``assignments``: files of the table ``cluster_assignments``. Raises as :func:`write_group_weights`.
    """
    by_cluster = pa.table({"cluster_id": np.arange(len(weights)), "weight": weights})
    parameters = {"index": query.files(index), "assignments": query.files(assignments)}
    _write("cluster_weights", parameters, folder, scratch, wanting="a cluster", by_cluster=by_cluster)


def _write(
    name: str, parameters: dict[str, Any], folder: Path, scratch: Path, *, wanting: str, **tables: pa.Table
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with query.connect(QueryConfig(), scratch=scratch) as connection:
        for table_name, table in tables.items():
            connection.register(table_name, table)
        rows = query.stream(connection, query.sql("training.data", name), parameters)
        for shard, table in _by_shard(rows):
            lacking = table.filter(table["weight"].is_null())
            if lacking.num_rows:
                example = lacking["image_id"][0].as_py()
                raise ShardError(
                    f"training shard {shard}: {lacking.num_rows} images have no {wanting.removeprefix('a ')}, "
                    f"e.g. {example}"
                )
            parquet.write_table(table, folder / f"{shard}.parquet")


def _by_shard(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
    """Of rows ordered by shard those of one shard after another."""
    held: list[pa.RecordBatch] = []
    name = ""
    for batch in batches:
        shards = batch.column("shard").dictionary_encode()
        runs = np.flatnonzero(np.diff(shards.indices.to_numpy())) + 1
        for start, stop in zip([0, *runs], [*runs, len(batch)]):
            shard = batch.column("shard")[int(start)].as_py()
            if held and shard != name:
                yield name, _table(held)
                held = []
            name = shard
            held.append(batch.slice(int(start), int(stop - start)))
    if held:
        yield name, _table(held)


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).select(SCHEMA.names).cast(SCHEMA)

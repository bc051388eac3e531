"""What the weights of a root's training images are made of, for the stage that trains on them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.files import fingerprint_of
from pipeline.core.manifest import ShardsManifest
from pipeline.storage.result import read_result
from training.config import CLUSTER_ERROR, GROUP_SIZE, StudentConfig
from training.data.weights import read_cluster_weights, write_cluster_weights, write_group_weights
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
    if path.resolve().is_relative_to((root / CLUSTERS).resolve()):
        raise ConfigError(
            f"student.weights_file {path}: the evaluation of this student would write it anew; copy it elsewhere"
        )
    weights = read_cluster_weights(path, clusters=manifest.clusters, clusters_digest=manifest.clusters_digest)

    def by_cluster(index: list[Path], folder: Path, *, scratch: Path) -> None:
        write_cluster_weights(index, clusters.parquet("cluster_assignments"), weights, folder, scratch=scratch)

    return Weighing(digest=fingerprint_of(weights.tolist(), clusters.digest), write=by_cluster)

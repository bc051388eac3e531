"""Weights of training images: what they are made of, where they lie, and everything that can be wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.files import fingerprint_of
from pipeline.core.manifest import read_manifest
from pipeline.core.tars import read_index
from pipeline.storage.result import read_result
from tests.conftest import SmallRun
from training import stage
from training.ablation.grid import cells_of
from training.config import AblationConfig, StudentConfig
from training.data.weighing import weighing_of, write_group_weights
from training.data.weights import ShardWeights, read_cluster_weights
from training.job.contradictions import contradictions
from training.job.training_job import TrainingJob


class _Set:
    """The part of a training set that says which images a shard has."""

    def __init__(self, **shards: list[int]):
        self.shards, self._ids = list(shards), list(shards.values())

    def image_ids(self, shard: int) -> np.ndarray:
        return np.array(self._ids[shard], np.int64)


def _write(path: Path, metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def _indexes(root: Path) -> list[Path]:
    return sorted((root / "training_shards" / "index").glob("*.parquet"))


def test_weights_are_joined_by_id(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", image_id=[3, 1, 2], weight=[0.3, 0.1, 0.2])
    _write(tmp_path / "c.parquet", image_id=[9, 8], weight=[0.0, 5.0])
    # Not all images of a shard have to be in the set.
    weights = ShardWeights(tmp_path, _Set(a=[1, 2, 3], b=[], c=[8]))
    assert weights.rows(0).tolist() == [0.1, 0.2, 0.3] and weights.rows(1).tolist() == []
    assert weights.totals == pytest.approx([0.6, 0, 5])


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        ({"image_id": [1, 2], "weight": [0.0, 0.0]}, ConfigError, "all training images sum to 0"),
        ({"image_id": [1, 2], "weight": [1.0, -2.0]}, ConfigError, r"a\.parquet: -2 of image 2 is no weight"),
        ({"image_id": [1, 2], "weight": [np.nan, 2.0]}, ConfigError, r"a\.parquet: nan of image 1 is no weight"),
        ({"image_id": [1, 3], "weight": [1.0, 2.0]}, ShardError, r"a\.parquet: 1 of 2 training images .* e\.g\. 2"),
    ],
)
def test_wrong_weights_of_images(tmp_path: Path, columns: dict, error: type, said: str) -> None:
    _write(tmp_path / "a.parquet", **columns)
    with pytest.raises(error, match=said):
        ShardWeights(tmp_path, _Set(a=[1, 2]))
    with pytest.raises(ShardError, match=r"b\.parquet: the weights of this shard .* are missing"):
        ShardWeights(tmp_path, _Set(b=[1, 2]))


def test_a_gap_becomes_a_weight_of_one_to_two(tmp_path: Path) -> None:
    path = _write(tmp_path / "gaps.parquet", cluster_id=[4, 0, 1], gap=[-0.5, 0.5, 1.0])
    # Clusters 2 and 3 were not sampled.
    assert read_cluster_weights(path, clusters=5).tolist() == [1.5, 2, 1.5, 1.5, 1]
    given = _write(tmp_path / "weights.parquet", cluster_id=[1, 0], weight=[0, 7], gap=[9.0, 9.0])
    assert read_cluster_weights(given, clusters=2).tolist() == [7, 0]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"cluster_id": [0, 1, 2]}, r"expected columns cluster_id and weight, or gap, got \['cluster_id'\]"),
        ({"weight": [1.0]}, r"expected columns cluster_id and weight, or gap, got \['weight'\]"),
        ({"cluster_id": [0, 1, 2], "weight": [0.0, 0, 0]}, "all weights are 0"),
        ({"cluster_id": [0, 1, 2], "weight": [1.0, -1, 0]}, r"1 of 3 are no weight, 0 or above, e\.g\. -1"),
        ({"cluster_id": [0, 1, 2], "weight": [1.0, None, 0]}, r"1 of 3 are no weight, 0 or above, e\.g\. nan"),
        ({"cluster_id": [0, 1, 2], "weight": [1.0, np.inf, 0]}, r"1 of 3 are no weight.* e\.g\. inf"),
        ({"cluster_id": [0, 1, 2], "gap": [1.0, np.nan, 0]}, r"1 of 3 are no gap, e\.g\. nan"),
        ({"cluster_id": [0, 1, 2], "weight": ["1", "2", "3"]}, "weight has to be numbers, got string"),
        ({"cluster_id": [0, 1, 3], "weight": [1.0, 1, 1]}, "cluster 3 is none of the 3 clusters"),
        ({"cluster_id": [0, 1, -1], "gap": [1.0, 1, 1]}, "cluster -1 is none of the 3 clusters"),
        ({"cluster_id": [0, 2], "weight": [1.0, 1]}, r"1 of 3 clusters have no weight, e\.g\. 1"),
        ({"cluster_id": [0, 2, 2], "weight": [1.0, 1, 1]}, "cluster 2 stands 2 times"),
        ({"cluster_id": [0.0, 1, 2], "weight": [1.0, 1, 1]}, "cluster_id has to be whole numbers, got double"),
        ({"cluster_id": pa.array([], pa.int32()), "gap": pa.array([], pa.float64())}, "0 nulls in 0 rows"),
    ],
)
def test_wrong_weights_of_clusters_are_one_line(tmp_path: Path, columns: dict, said: str) -> None:
    path = _write(tmp_path / "weights.parquet", **columns)
    with pytest.raises(ConfigError, match=f"^student.weights_file {path}: .*{said}") as raised:
        read_cluster_weights(path, clusters=3)
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.parquet: no such file"):
        read_cluster_weights(tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("cluster_id,weight")
    with pytest.raises(ShardError, match=r"text\.parquet"):
        read_cluster_weights(tmp_path / "text.parquet")
    other = _write(tmp_path / "other.parquet", {"clusters_digest": "b"}, cluster_id=[0], gap=[0.5])
    assert read_cluster_weights(other, clusters=1, clusters_digest="b").tolist() == [1.5]
    with pytest.raises(ConfigError, match="it is of other clusters than those of the training shards"):
        read_cluster_weights(other, clusters=1, clusters_digest="a")


def test_groups_weigh_what_their_images_stand_for(finished: SmallRun, tmp_path: Path) -> None:
    groups = read_result(finished.root, "balance").parquet("balance_groups")
    write_group_weights(_indexes(finished.root), groups, tmp_path / "weights", scratch=tmp_path)
    sizes: dict[int, int] = {}
    for row in pa.concat_tables(map(pq.read_table, groups)).to_pylist():
        sizes[row["group_id"]] = sizes.get(row["group_id"], 0) + 1
    found = 0
    for index in _indexes(finished.root):
        written = pq.read_table(tmp_path / "weights" / index.name)
        assert sorted(written["image_id"].to_pylist()) == sorted(read_index(index)["image_id"].to_pylist())
        for row in written.to_pylist():
            assert row["weight"] == sizes[row["image_id"]]
            found += row["weight"]
    assert found == read_result(finished.root, "balance").stats["samples"]


def test_images_that_share_a_group_divide_it(tmp_path: Path) -> None:
    groups = _write(
        tmp_path / "groups.parquet",
        image_id=[1, 2, 3, 4],
        group_id=[1, 1, 1, 4],
        group_size=[3, 3, 3, 1],
        kept=[True, True, False, True],
    )
    index = [_write(tmp_path / "index" / f"{name}.parquet", image_id=ids) for name, ids in (("a", [4, 2]), ("b", [1]))]
    write_group_weights(index, [groups], tmp_path / "weights", scratch=tmp_path)
    assert pq.read_table(tmp_path / "weights" / "a.parquet").to_pydict() == {"image_id": [2, 4], "weight": [1.5, 1]}
    assert pq.read_table(tmp_path / "weights" / "b.parquet").to_pydict() == {"image_id": [1], "weight": [1.5]}
    _write(index[1], image_id=[1, 3, 7])
    with pytest.raises(ShardError, match=r"training shard b: 2 images have no group in balance_groups, e\.g\. 3"):
        write_group_weights(index, [groups], tmp_path / "weights", scratch=tmp_path)


class _Started(Exception):
    pass


def _job_of(root: Path, config: StudentConfig, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """The job of the stage ``student`` when its ranks would be started."""
    started: list[TrainingJob] = []

    def start(job: TrainingJob, **_: object) -> None:
        started.append(job)
        raise _Started

    monkeypatch.setattr(stage, "run_training", start)
    with pytest.raises(_Started):
        stage.train_student(root, config)
    return started[0]


def test_the_stage_writes_weights_for_its_ranks(
    copied: SmallRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, digests = copied.root, []
    manifest = read_manifest(root / "training_shards")
    clusters = {
        row["image_id"]: row["cluster_id"]
        for path in read_result(root, "clusters").parquet("cluster_assignments")
        for row in pq.read_table(path).to_pylist()
    }
    plain = _job_of(root, copied.settings.student, monkeypatch)
    assert plain.weights is None and plain.weighted_by() == []
    digests.append(plain.fingerprint())
    made_with = {"clusters_digest": manifest.clusters_digest}
    gaps = np.linspace(-0.2, 0.9, manifest.clusters)
    path = _write(tmp_path / "gaps.parquet", made_with, cluster_id=range(manifest.clusters), gap=gaps)
    for weights, file in (("group_size", None), ("cluster_error", str(path))):
        config = copied.settings.student.model_copy(update={"weights": weights, "weights_file": file})
        job = _job_of(root, config, monkeypatch)
        job.on(2).check()
        digests.append(job.fingerprint())
        written = [row for name in _indexes(root) for row in pq.read_table(job.weights / name.name).to_pylist()]
        assert len(written) == manifest.samples
        if file:
            for row in written:
                assert row["weight"] == pytest.approx(1 + max(gaps[clusters[row["image_id"]]], 0))
    # By its content, wherever it lies.
    moved = tmp_path / "elsewhere.parquet"
    path.rename(moved)
    config = config.model_copy(update={"weights_file": str(moved)})
    assert _job_of(root, config, monkeypatch).fingerprint() == digests[-1]
    _write(moved, made_with, cluster_id=range(manifest.clusters), gap=gaps / 2)
    digests.append(_job_of(root, config, monkeypatch).fingerprint())
    assert len(set(digests)) == 4
    own = root / "cluster_accuracy" / "cluster_accuracy.parquet"
    _write(own, made_with, cluster_id=[0], gap=[0.1])
    with pytest.raises(ConfigError, match="the evaluation of this student would write it anew; copy it elsewhere"):
        weighing_of(root, config.model_copy(update={"weights_file": str(own)}), manifest)


def test_uniform_weights_leave_fingerprints_and_others_as_they_were() -> None:
    assert fingerprint_of(StudentConfig().content()) == fingerprint_of(StudentConfig(weights="uniform").content())
    weighted = StudentConfig(weights="cluster_error", weights_file="a.parquet")
    assert weighted.content() == {**StudentConfig().content(), "weights": "cluster_error"}
    assert weighted.unweighted() == StudentConfig()
    assert {cell.student.weights for cell in cells_of(AblationConfig(), weighted)} == {"uniform"}


def test_settings_that_contradict_each_other() -> None:
    for settings in ({"weights": "cluster_error"}, {"weights": "group_size", "weights_file": "a.parquet"}):
        (line,) = contradictions(StudentConfig(**settings), ranks=2)
        assert "cluster_error needs student.weights_file, and no other reads it" in line
    student = StudentConfig(weights="group_size", ranks=2)
    job = TrainingJob(name="a", student=student, shards="s", output="o", teacher_dim=8)
    with pytest.raises(ConfigError, match=r"student\.weights group_size, but the folder of weights is None"):
        job.check()

"""The job file: what cannot be meant is refused before anything is built."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.clip.model import WEIGHTS_FILE, load_clip
from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.manifest import ShardsManifest
from tests.conftest import SmallRun
from training.config import LossesConfig, StudentConfig
from training.job.training_job import TrainingJob
from training.stage import with_teacher_temperature


def test_yaml_and_json_say_the_same(job: TrainingJob, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    assert TrainingJob.read(path) == job
    short = tmp_path / "job.yaml"
    short.write_text("name: mine\nstudent: {ranks: 1}\nshards: data\noutput: run\n")
    assert TrainingJob.read(short).student.ranks == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nshards: b\noutput: c\nstudent: {losses: {circle: {weight: 1}}}", "losses.circle\n.*not permitted"),
        ("name: a\nshards: b\noutput: c\nstudent: {batch_size: many}", "student.batch_size"),
        ("name: a\nstudent: {}", "shards"),
        ("{", "no training job"),
        ("", "no training job"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainingJob.read(tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match="no training job"):
        TrainingJob.read(tmp_path / "nowhere.yaml")


def test_a_relation_to_a_teacher_whose_temperature_is_unknown_is_refused(job: TrainingJob) -> None:
    def of(**relation: float) -> TrainingJob:
        losses = LossesConfig.model_validate({"preset": "best", "relation": relation})
        return job.model_copy(update={"student": job.student.model_copy(update={"losses": losses})})

    of(teacher_temperature=0.01).check()
    of(weight=0).check()
    with pytest.raises(ConfigError, match=r"set student\.losses\.relation\.teacher_temperature"):
        of().check()


def test_the_teachers_own_temperature_is_that_of_its_root(finished: SmallRun) -> None:
    scale = load_clip(finished.root / "teacher", device="cpu").model.logit_scale.exp().item()
    student = StudentConfig(losses=LossesConfig(preset="best"))
    found = with_teacher_temperature(finished.root, student)
    assert found.losses.relation.teacher_temperature == pytest.approx(1 / scale)
    assert with_teacher_temperature(finished.root, found) == found
    assert with_teacher_temperature(finished.root, StudentConfig()) == StudentConfig()


def test_shards_of_another_teacher_or_other_clusters_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    manifest = ShardsManifest(
        samples=1,
        teacher="t",
        weights_hash="w",
        preprocessing_hash="p",
        embed_dim=24,
        clusters=4,
        clusters_digest="c",
    )
    (tmp_path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    here = job.model_copy(update={"shards": tmp_path})
    here.check_shards()
    right = {"weights_hash": "w", "preprocessing_hash": "p", "clusters_digest": "c"}
    here.model_copy(update={"made_with": right}).check_shards()
    for name, value in right.items():
        with pytest.raises(ShardError, match=f"its {name} is {value}, this job's other"):
            here.model_copy(update={"made_with": {**right, name: "other"}}).check_shards()
    with pytest.raises(ShardError, match="no readable manifest"):
        job.model_copy(update={"shards": tmp_path / "nowhere", "made_with": right}).check_shards()


def test_a_checkpoint_belongs_to_the_data_of_a_plain_command(
    job: TrainingJob, write_shards: Callable[..., Path], tmp_path: Path
) -> None:
    plain = job.model_copy(update={"inputs": ""})
    assert plain.fingerprint() == plain.model_copy(update={"output": tmp_path}).fingerprint()
    other = write_shards(tmp_path / "shards", shards=2, rows=32)
    table = pq.read_table(job.centroids)
    moved = table.set_column(1, table.schema.field("centroid"), table["centroid"].take([1, 0, 2, 3]))
    pq.write_table(moved, tmp_path / "centroids.parquet")
    for change in ({"shards": other}, {"centroids": tmp_path / "centroids.parquet"}, {"views": 2}):
        assert plain.model_copy(update=change).fingerprint() != plain.fingerprint()
    start = tmp_path / "start"
    start.mkdir()
    inherited = plain.model_copy(update={"student": plain.student.model_copy(update={"initial": str(start)})})
    found = set()
    for weights in ("a", "b"):
        (start / WEIGHTS_FILE).write_text(weights)
        found.add(inherited.fingerprint())
    assert len(found) == 2

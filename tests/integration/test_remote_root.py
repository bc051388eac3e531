"""Whole jobs whose root is in an S3-compatible store: killed on one machine, finished on another, asked by a third."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from assets.definitions import defs
from pipeline.storage.result import read_result
from pipeline.storage.roots import open_root
from pipeline.teacher.stage import read_info
from tests.conftest import SmallRun, small_settings
from tests.integration.job import Job
from tests.ray_cluster import LoopbackCluster
from tests.s3 import Store
from training.job.training_job import TrainingJob
from training.launch.remote_checkpoints import forget_elsewhere, kept_elsewhere
from training.stage import train_student

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ("source_pairs", "teacher_embeddings", "near_duplicates", "balance", "clusters", "training_shards")


@pytest.fixture
def cluster() -> Iterator[LoopbackCluster]:
    """A cluster for this alone: a process that connects to one again and again while drivers of it are killed is not
    what Ray is made for, and other tests of this process do."""
    running = LoopbackCluster()
    yield running
    running.shutdown()


def config_of(s3: Store, machine: str, folder: Path, **changes: Any) -> dict[str, Any]:
    changes = {"baseline": {"enabled": False}, **changes}
    settings = small_settings(folder, storage=s3.machine(machine).model_dump(), **changes).model_dump(mode="json")
    return settings | {"root": s3.url}


def run_all(config: dict[str, Any]) -> dict[str, int]:
    """Run the whole job here and return how many shards each table computed."""
    job, instance = defs.resolve_job_def("clip_cid"), dg.DagsterInstance.ephemeral()
    result = job.execute_in_process({"resources": {"settings": {"config": config}}}, instance=instance)
    assert result.success
    computed = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        if "shards_computed_now" in materialization.metadata:
            name = materialization.asset_key.to_user_string()
            computed[name] = materialization.metadata["shards_computed_now"].value
    return computed


def killed_at_the_embeddings(s3: Store, cluster: LoopbackCluster, folder: Path) -> None:
    """The job in a process of its own, on the first machine and a Ray cluster, killed as soon as a shard of embeddings
    is in the store."""
    job = Job(folder)
    job.configure_with(config_of(s3, "first", folder, compute={"engine": "ray", "address": cluster.address}))
    process, deadline = job.start(), time.monotonic() + 600
    before, there = {f".marks/{stage}/complete.json" for stage in ("images", "teacher")}, set[str]()
    while not any(name.startswith(".marks/teacher_embeddings/0") for name in there):
        assert process.poll() is None and time.monotonic() < deadline, job.output()[-4000:]
        # A listing is work for the server too: often only when the embeddings are next.
        time.sleep(0.02 if before <= there else 0.5)
        there = s3.objects(".marks")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    job.assert_no_process_stays()
    # Ray ends the workers of a driver that is gone.
    while any(cluster.at_work(node, "_Worker.work") for node in cluster.nodes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_here_finished_there_and_asked_elsewhere(
    s3: Store, cluster: LoopbackCluster, finished: SmallRun, tmp_path: Path
) -> None:
    killed_at_the_embeddings(s3, cluster, tmp_path / "job")
    assert ".marks/teacher_embeddings/complete.json" not in s3.objects(".marks")
    embedded = sum("/0" in name for name in s3.objects(".marks/teacher_embeddings"))
    computed = run_all(config_of(s3, "second", tmp_path))
    expected = {"source_pairs": 0, "images": 0, "teacher": 0, "teacher_embeddings": 3 - embedded}
    expected["training_shards"] = read_result(finished.root, "training_shards").shards
    assert computed == {**dict.fromkeys(computed, 1), **expected}

    third = open_root(s3.url, s3.machine("third"))
    for stage in STAGES:
        assert read_result(third, stage).digest == read_result(finished.root, stage).digest, stage
    before = {name: s3.read(name) for name in s3.objects(".marks") if name.endswith("complete.json")}
    assert set(run_all(config_of(s3, "third", tmp_path)).values()) == {0}
    assert before == {name: s3.read(name) for name in before}
    # Where nothing was to do, no image was copied; the demo draws its evaluation set anew.
    assert not [path for path in third.rglob("*.tar") if "evaluation" not in path.parts]
    assert any(name.startswith("pictures/") for name in s3.objects("pictures"))
    connection = duckdb.connect()
    connection.register_filesystem(s3.files)
    connection.execute(s3.read("catalog.sql").decode())
    # The student on the store is whole and is evaluated beside the teacher.
    open_clip_files = {name.rpartition("/")[2] for name in s3.objects("student")}
    assert {"open_clip_model.safetensors", "open_clip_config.json"} <= open_clip_files
    models = connection.sql("SELECT DISTINCT model FROM evaluation ORDER BY ALL").fetchall()
    assert models == [("student",), ("teacher",)]
    counts = "SELECT count(*) FILTER (kept), count(*) FILTER (NOT kept) FROM balance_groups"
    kept, removed = connection.sql(counts).fetchall()[0]
    assert connection.sql("SELECT count(*) FROM balanced_pairs").fetchall() == [(kept,)]
    assert kept + removed == read_result(third, "teacher_embeddings").rows


def test_checkpoints_of_a_killed_training_are_found_on_another_machine(
    s3: Store, finished: SmallRun, tmp_path: Path
) -> None:
    # A root that was a folder is moved to a store by copying it.
    s3.files.put(f"{finished.root}/", f"{s3.prefix}/", recursive=True)
    first, second = (open_root(s3.url, s3.machine(name)) for name in ("first", "second"))
    student = small_settings(tmp_path).student.model_copy(update={"steps": 300})

    def stop(row: dict[str, Any]) -> None:
        if row["step"] >= 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_student(first, student, on_metrics=stop)
    folder = Path("runs/student/checkpoints")
    sent = {name.split("/")[3] for name in s3.objects(str(folder)) if name.endswith("/complete.json")}
    assert sent == {path.name for path in (first / folder).iterdir()}
    # Training reads local tars, which go when it ends.
    assert not list(first.rglob("*.tar"))

    newest = max(sent, key=lambda tag: int(tag.partition("-")[2]))
    # What decides whose checkpoints they are is as the stage has it.
    made_from = {"inputs": read_result(first, "training_shards").digest, "teacher_dim": read_info(first).embed_dim}
    output = second.resolve() / "runs" / "student"
    job = TrainingJob(name="student", student=student, shards=second, output=output, **made_from)
    with kept_elsewhere(second, job):
        assert [path.name for path in job.checkpoints.iterdir()] == [newest]
        there = {path.name: path.read_bytes() for path in (first / folder / newest).rglob("*") if path.is_file()}
        here = {path.name: path.read_bytes() for path in (job.checkpoints / newest).rglob("*") if path.is_file()}
        assert here == there
        assert job.metrics_file.read_bytes() == (first / "runs/student/metrics.jsonl").read_bytes()
    forget_elsewhere(second, job)
    assert not s3.objects("runs")

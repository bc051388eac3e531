"""Real parts, small: a corpus that is rendered, served on loopback, downloaded and embedded once a session."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.openmp import limit_spinning
from tests.shared import made_once

if TYPE_CHECKING:
    # Not at run time: tests of kernels run where there is torch and little else.
    from assets.settings import Settings
    from pipeline.storage.result import StageResult
    from tests.integration.job import Job
    from tests.ray_cluster import LoopbackCluster
    from tests.s3 import Store

limit_spinning()

SMALL: dict[str, Any] = {
    "demo": {
        "pairs": 300,
        "evaluation_train_images": 1,
        "evaluation_test_images": 1,
        "teacher": {"images_per_concept": 1, "concepts_per_batch": 48, "steps": 6},
    },
    "source": {"samples_per_shard": 120},
    # On a busy machine the corpus's own server may be slow to answer; that should not look like a dead link.
    "images": {"timeout_s": 60},
    "neighbors": {"max_distance": 0.5},
    # A teacher of a few steps puts all images close together, so shares are asked for here, not distances.
    "balance": {"target_removal": 0.3},
    "checks": {"max_group_share": 1.0},
    "clusters": {"clusters": 16, "iterations": 5},
    "shards": {"samples_per_shard": 50},
    # Ranks take most of the time of a run, to load what they need; tests/training runs two and more.
    "student": {"steps": 12, "batch_size": 32, "checkpoint_every": 3, "log_every": 1, "ranks": 1},
    "evaluation": {"tasks": ["zero_shot", "retrieval"]},
}
"""Settings of the smallest whole run."""


def small_settings(root: Path, **changes: Any) -> "Settings":
    """The smallest whole run under ``root``, with sections changed field by field."""
    from assets.settings import Settings

    values = json.loads(json.dumps(SMALL))
    for section, fields in changes.items():
        values[section] = {**values.get(section, {}), **fields}
    return Settings(root=str(root), **values)


def run_source(settings: "Settings") -> "StageResult":
    from pipeline.demo.stage import resolve_lists
    from pipeline.source.stage import import_pairs

    lists = resolve_lists(settings.source.lists, settings.path, settings.demo)
    return import_pairs(settings.path, settings.source, settings.query, lists=lists)


def run_images(settings: "Settings") -> "StageResult":
    from pipeline.demo.stage import reachable
    from pipeline.download.stage import download_images

    with reachable(settings.source.lists, settings.path, settings.images) as images:
        return download_images(settings.path, images)


def run_teacher(settings: "Settings") -> "StageResult":
    from pipeline.demo.stage import teacher_identity
    from pipeline.demo.teacher import train_demo_teacher
    from pipeline.teacher.stage import resolve_teacher

    return resolve_teacher(
        settings.path,
        settings.teacher,
        demo=lambda folder: train_demo_teacher(folder, settings.demo),
        demo_identity=teacher_identity(settings.demo),
    )


def run_embeddings(settings: "Settings") -> "StageResult":
    from pipeline.embeddings.stage import embed_images

    return embed_images(settings.path, settings.embeddings, settings.compute)


def run_balance(settings: "Settings") -> "StageResult":
    from pipeline.balance.stage import balance_pairs
    from pipeline.neighbors.stage import build_forest

    build_forest(settings.path, settings.neighbors, settings.compute)
    return balance_pairs(settings.path, settings.balance, settings.query)


def run_clusters(settings: "Settings") -> "StageResult":
    from pipeline.clusters.stage import cluster_images

    return cluster_images(settings.path, settings.clusters)


def run_shards(settings: "Settings") -> "StageResult":
    from pipeline.shards.stage import write_shards

    return write_shards(settings.path, settings.shards, settings.query)


STAGES = (run_source, run_images, run_teacher, run_embeddings, run_balance, run_clusters, run_shards)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, of these the longest: workers of pytest-xdist should not end with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, "integration" not in item.path.parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since many tests wait, for a server, a timeout or a process of their own."""
    return min((os.cpu_count() or 1) + 1, 8)


@dataclasses.dataclass(frozen=True)
class SmallRun:
    settings: "Settings"

    @property
    def root(self) -> Path:
        return self.settings.path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """All stages up to the training shards, run once; read it, do not change it."""

    def make(folder: Path) -> None:
        for stage in STAGES:
            stage(small_settings(folder / "root"))

    return SmallRun(small_settings(made_once(tmp_path_factory, "small", make) / "root"))


@pytest.fixture
def copied(finished: SmallRun, tmp_path: Path) -> SmallRun:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.root, tmp_path / "root")
    return SmallRun(small_settings(tmp_path / "root"))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> "Job":
    """A whole job, to an evaluated student, that nothing interrupted; read it, do not change it."""
    from tests.integration.job import Job

    return Job(made_once(tmp_path_factory, "reference", lambda folder: Job(folder).run()))


@pytest.fixture(scope="session")
def cluster() -> "Iterator[LoopbackCluster]":
    """A Ray cluster of two nodes; a test that loses one adds it first."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from tests.ray_cluster import LoopbackCluster

    running = LoopbackCluster()
    yield running
    running.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from tests.s3 import serve

    with serve() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, tmp_path: Path) -> "Store":
    """A root in an S3-compatible store that nobody has used yet."""
    from tests.s3 import Store

    return Store(s3_endpoint, tmp_path)

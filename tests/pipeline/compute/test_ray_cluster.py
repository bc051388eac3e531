"""Download and embeddings on a Ray cluster: nodes, workers and the stage are killed, and the tables stay the same."""

import contextlib
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.compute.ray_cluster import connected, run_tasks
from pipeline.core.errors import DownloadError
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.stage import embed_images
from pipeline.storage.result import StageResult, read_result
from tests.conftest import SmallRun
from tests.pipeline.download.hostile import GATE, WEB, Hostile, hostile_server
from tests.pipeline.download.test_faults import assert_whole, config_for, make_pairs
from tests.ray_cluster import LoopbackCluster
from tests.shard_functions import leaves_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_OTHERS = {0: "/missing", 1: "/to/http://169.254.169.254/latest/meta-data/", 2: "/to/file:///etc/passwd"}
PATHS = ["/gate" if number % 40 == 20 else _OTHERS.get(number % 11, "/good") for number in range(160)]
EMBEDDINGS = EmbeddingsConfig(batch_size=32)


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile_server() as running:
        yield running


def on(cluster: LoopbackCluster, **changes: Any) -> ComputeConfig:
    return ComputeConfig(**{"engine": "ray", "address": cluster.address, **changes})


def images_config(server: Hostile, **changes: Any) -> ImagesConfig:
    # One thread, so that samples lie in the tars in the order of the list, and their places are equal too.
    values = {"threads": 1, "processes": 2, "timeout_s": 60, "sample_timeout_s": 90}
    return config_for(server, **(values | changes))


@pytest.fixture(scope="module")
def local(server: Hostile, finished: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and embeddings, made by this machine alone."""
    root = tmp_path_factory.mktemp("local") / "root"
    GATE.set()
    make_pairs(root, PATHS)
    download_images(root, images_config(server))
    for name in ("teacher", ".marks/teacher"):
        shutil.copytree(finished.root / name, root / name)
    embed_images(root, EMBEDDINGS, ComputeConfig())
    return root


def fetch_with_a_lost_node(server: Hostile, cluster: LoopbackCluster, root: Path) -> StageResult:
    """Lose a node one of whose workers is in the middle of a shard; it waits there until the node is gone."""
    lost = cluster.add_node()

    def lose() -> None:
        try:
            worker = wait_for_one_at_gate(server, cluster, lost)
            cluster.lose(lost)
            # A worker outlives its raylet by a moment; after a power cut it would not.
            worker.kill()
            worker.wait(10)
        finally:
            GATE.set()

    GATE.clear()
    with ThreadPoolExecutor(1) as pool:
        losing = pool.submit(lose)
        result = download_images(root, images_config(server, processes=3), on(cluster))
        losing.result()
    return result


def wait_for_one_at_gate(server: Hostile, cluster: LoopbackCluster, node: Any) -> psutil.Process:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for worker in cluster.workers(node):
            with contextlib.suppress(psutil.Error):
                if any(connection.laddr.port in server.at_gate for connection in worker.net_connections("tcp")):
                    return worker
        time.sleep(0.02)
    raise AssertionError(f"no worker of the node asked for /gate: {cluster.workers(node)}")


def test_download_is_the_same_though_a_node_is_lost(
    server: Hostile, cluster: LoopbackCluster, local: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    make_pairs(root, PATHS)
    asked = server.requests.count("/gate")
    result = fetch_with_a_lost_node(server, cluster, root)
    assert result.computed == result.shards == 4
    assert result.stats["refused_address"] == 29
    # One more than there are: a shard was begun twice.
    assert server.requests.count("/gate") - asked > 4
    assert result.digest == read_result(local, "images").digest
    assert_whole(root)


def test_the_watchdog_sees_the_workers_of_ray(server: Hostile, cluster: LoopbackCluster, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_pairs(root, ["/good", "/drip"])
    config = images_config(server, stall_timeout_s=3, sample_timeout_s=300)
    with pytest.raises(DownloadError, match=rf"no progress .* at work: 00000 \(1 samples answered; asking {WEB} x1"):
        download_images(root, config, on(cluster))
    assert not list((root / "images").glob("*.tar"))


def test_embeddings_are_the_same_though_a_node_and_a_worker_are_lost(
    cluster: LoopbackCluster, local: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = without_embeddings(local, tmp_path / "root")
    lost = cluster.add_node()
    watches = [
        cluster.when_at_work(lost, "_Worker.work", lambda _: cluster.lose(lost)),
        cluster.when_at_work(cluster.nodes[1], "_Worker.work", lambda worker: worker.send_signal(signal.SIGKILL)),
    ]
    with caplog.at_level(logging.WARNING, "pipeline.compute.ray_cluster"):
        result = embed_images(root, EMBEDDINGS, on(cluster))
    for watch in watches:
        watch.join()
    assert result.computed == 4
    assert sum("a Ray worker was lost" in record.message for record in caplog.records) == 2
    assert embeddings(root) == embeddings(local)


def test_a_machine_that_is_no_node_joins_for_the_time(cluster: LoopbackCluster) -> None:
    def alive() -> list[float]:
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return sorted(nodes)

    # As the download connects, so that its workers are as small as those on one machine.
    with connected(on(cluster), worker_process_setup_hook="pipeline.download.stub_imports.leave_out_unused") as ray:
        # Nodes that other tests lost may not have been missed yet.
        deadline = time.monotonic() + 60
        while len(before := alive()) > len(cluster.nodes) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert list(run_tasks(ray, leaves_out, ["torch"], on(cluster))) == [True]
    with connected(on(cluster, join=True)) as ray:
        assert alive() == [0, *before]
    with connected(on(cluster)) as ray:
        deadline = time.monotonic() + 30
        while alive() != before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert alive() == before


def without_embeddings(source: Path, root: Path) -> Path:
    shutil.copytree(source, root)
    for name in ("teacher_embeddings", "caption_embeddings", ".marks/teacher_embeddings"):
        shutil.rmtree(root / name)
    return root


def embeddings(root: Path) -> dict[str, bytes]:
    files = read_result(root, "teacher_embeddings").files
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

"""Download and embeddings on a Ray cluster: nodes, workers and the stage are killed, and the tables stay the same."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ComputeConfig, EmbeddingsConfig, ImagesConfig
from pipeline.download import download_images
from pipeline.embed import embed_images
from pipeline.errors import DownloadError
from pipeline.store import StageResult, read_result
from tests.conftest import SmallRun
from tests.pipeline.conftest import LoopbackCluster
from tests.pipeline.hostile import GATE, WEB, Hostile, hostile_server
from tests.pipeline.test_faults import assert_whole, config_for, make_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATHS = ["/gate" if number % 40 == 20 else "/good" if number % 7 else "/missing" for number in range(160)]
EMBEDDINGS = EmbeddingsConfig(batch_size=32)


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile_server() as running:
        yield running


def on(cluster: LoopbackCluster, **changes: Any) -> ComputeConfig:
    return ComputeConfig(engine="ray", address=cluster.address, **changes)


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
    """Lose a node whose worker is in the middle of a shard; it waits there until the node is gone."""
    lost = cluster.add_node()

    def lose(_: Any) -> None:
        asked = server.requests.count("/gate")
        while server.requests.count("/gate") < asked + 3 and len(list(root.glob(".tmp/images/*/*.beat"))) < 3:
            time.sleep(0.01)
        cluster.lose(lost)
        GATE.set()

    GATE.clear()
    watch = cluster.when_at_work(lost, "ray_download", lose)
    try:
        return download_images(root, images_config(server, processes=3), on(cluster))
    finally:
        GATE.set()
        watch.join()


def test_download_is_the_same_though_a_node_is_lost(
    server: Hostile, cluster: LoopbackCluster, local: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    make_pairs(root, PATHS)
    asked = server.requests.count("/gate")
    result = fetch_with_a_lost_node(server, cluster, root)
    assert result.computed == result.shards == 4
    # One more than there are: a shard was begun twice.
    assert server.requests.count("/gate") - asked > 4
    assert result.digest == read_result(local, "images").digest
    assert_whole(root)


def test_guard_and_watchdog_hold_in_the_workers_of_ray(
    server: Hostile, cluster: LoopbackCluster, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    secret = f"http://127.0.0.1:{server.port}/secret"
    make_pairs(root, ["/good", "/drip"])
    config = images_config(server, connect_to={**server.connect_to, "inside.test": server.connect_to[WEB]})
    config = config.model_copy(update={"stall_timeout_s": 4, "sample_timeout_s": 300})
    with pytest.raises(DownloadError, match=rf"no progress .* asking {WEB} x1"):
        download_images(root, config, on(cluster))
    assert not list((root / "images").glob("*.tar"))
    assert secret

"""Every engine gives every result once, passes on errors of its tasks, and leaves no process behind."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.compute import map_shards
from pipeline.config import ComputeConfig
from pipeline.errors import ShardError
from pipeline.neighbours import near_duplicate_forest
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings
from tests.shard_functions import refuse, square

# Ray takes 127.0.0.1 for a node without an address and puts the machine's own in its place.
_LOOPBACK = "127.0.0.2"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A real Ray cluster of two nodes on loopback, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    project = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = project
    node = {"num_cpus": 1, "node_ip_address": _LOOPBACK, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


ENGINES = [ComputeConfig(engine="inline"), ComputeConfig(engine="processes", workers=2)]


@pytest.mark.parametrize("config", ENGINES, ids=lambda config: config.engine)
def test_results_and_errors(config: ComputeConfig) -> None:
    with map_shards(square, range(20), config) as results:
        assert sorted(results) == [number * number for number in range(20)]
    with pytest.raises(ShardError, match="shard 3 is bad"), map_shards(refuse, range(20), config) as results:
        list(results)
    # multiprocessing keeps one helper of its own until this process ends.
    children = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [line for line in children if "resource_tracker" not in line]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ray_of_its_own_is_started_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another cluster that this machine knows of is left alone.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.9:6379")
    config = ComputeConfig(engine="ray", workers=1)
    with map_shards(square, range(5), config) as results:
        assert sorted(results) == [number * number for number in range(5)]
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    assert "raylet" not in names


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestRay:
    def test_results_and_errors(self, cluster: Any) -> None:
        config = ComputeConfig(engine="ray", workers=2)
        with map_shards(square, range(20), config) as results:
            assert sorted(results) == [number * number for number in range(20)]
        with pytest.raises(ShardError, match="shard 3 is bad"), map_shards(refuse, range(20), config) as results:
            list(results)

    def test_forest_is_the_same_though_a_node_is_lost(self, cluster: Any, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        matrix = unit(np.repeat(rng.normal(size=(100, 32)), 5, axis=0) + 0.3 * rng.normal(size=(500, 32)))
        matrix = matrix.astype(np.float16)
        path = write_embeddings(tmp_path / "e.parquet", np.arange(500), matrix)
        lost = cluster.add_node(num_cpus=2, node_ip_address=_LOOPBACK, object_store_memory=100 << 20)
        time.sleep(1)

        from pipeline import search

        seen = []
        progress = search.Progress.add

        def lose_the_node(self: Any, count: int, note: str = "") -> None:
            seen.append(count)
            if len(seen) == 3:
                cluster.remove_node(lost, allow_graceful=False)
            progress(self, count, note)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search.Progress, "add", lose_the_node)
            report = near_duplicate_forest(
                path, tmp_path / "ray", max_distance=0.6, tile_rows=50, compute=ComputeConfig(engine="ray", workers=2)
            )
        assert report.tiles == len(seen) == 55
        near_duplicate_forest(path, tmp_path / "inline", max_distance=0.6, tile_rows=50)
        assert (tmp_path / "ray").read_bytes() == (tmp_path / "inline").read_bytes()
        assert read_forest(tmp_path / "ray") == brute_force_forest(np.arange(500), matrix, 0.6)

"""Every engine gives every result once, passes on errors of its tasks, and leaves no process behind."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core.errors import ComputeError, ShardError
from pipeline.neighbors.search import near_duplicate_forest
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings
from tests.ray_cluster import LoopbackCluster
from tests.shard_functions import refuse, square, variable

ENGINES = [ComputeConfig(engine="inline"), ComputeConfig(engine="processes", workers=2)]


@pytest.mark.parametrize("config", ENGINES, ids=lambda config: config.engine)
def test_results_and_errors(config: ComputeConfig) -> None:
    before = set(psutil.Process().children(recursive=True))
    with map_shards(square, range(20), config) as results:
        assert sorted(results) == [number * number for number in range(20)]
    with pytest.raises(ShardError, match="shard 3 is bad"), map_shards(refuse, range(20), config) as results:
        list(results)
    # multiprocessing keeps one helper of its own until this process ends.
    children = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ray_of_its_own_is_started_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another cluster that this machine knows of is left alone.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.9:6379")
    # As on a machine whose own Ray was started by somebody else.
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)

    def raylets() -> set[int]:
        return {child.pid for child in psutil.Process().children(recursive=True) if child.name() == "raylet"}

    before, config = raylets(), ComputeConfig(engine="ray", workers=1)
    with map_shards(square, range(5), config) as results:
        assert sorted(results) == [number * number for number in range(5)]
        assert raylets() > before
    with map_shards(variable, ["GOMP_SPINCOUNT"], config) as results:
        assert list(results) == ["30000"]
    assert raylets() == before


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestRay:
    @pytest.mark.parametrize("keeps_state", [False, True], ids=["tasks", "actors"])
    def test_results_and_errors(self, cluster: LoopbackCluster, keeps_state: bool) -> None:
        config = ComputeConfig(engine="ray", workers=2, address=cluster.address)
        with map_shards(square, range(20), config, keeps_state=keeps_state) as results:
            assert sorted(results) == [number * number for number in range(20)]
        with (
            pytest.raises(ShardError, match="shard 3 is bad"),
            map_shards(refuse, range(20), config, keeps_state=keeps_state) as results,
        ):
            list(results)

    def test_work_that_fits_on_no_node_is_refused(self, cluster: LoopbackCluster) -> None:
        config = ComputeConfig(engine="ray", address=cluster.address, gpus_per_task=1)
        with (
            pytest.raises(ComputeError, match="no node of the Ray cluster has the 1 cores and 1 GPUs"),
            map_shards(square, range(3), config, keeps_state=True) as results,
        ):
            list(results)

    def test_forest_is_the_same_though_a_node_is_lost(self, cluster: LoopbackCluster, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        matrix = unit(np.repeat(rng.normal(size=(100, 32)), 5, axis=0) + 0.3 * rng.normal(size=(500, 32)))
        matrix = matrix.astype(np.float16)
        path = write_embeddings(tmp_path / "e.parquet", np.arange(500), matrix)
        lost = cluster.add_node(num_cpus=2)
        time.sleep(1)

        from pipeline.neighbors import workspace as search

        seen = []
        progress = search.Progress.add

        def lose_the_node(self: Any, count: int, note: str = "") -> None:
            seen.append(count)
            if len(seen) == 3:
                cluster.lose(lost)
            progress(self, count, note)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search.Progress, "add", lose_the_node)
            compute = ComputeConfig(engine="ray", workers=2, address=cluster.address)
            report = near_duplicate_forest(path, tmp_path / "ray", max_distance=0.6, tile_rows=50, compute=compute)
        assert report.tiles == len(seen) == 55
        near_duplicate_forest(path, tmp_path / "inline", max_distance=0.6, tile_rows=50)
        assert (tmp_path / "ray").read_bytes() == (tmp_path / "inline").read_bytes()
        assert read_forest(tmp_path / "ray") == brute_force_forest(np.arange(500), matrix, 0.6)

"""The stage ``near_duplicates``: what is searched again when shards are added, changed or taken away."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.neighbors import stage
from pipeline.neighbors.config import NeighborsConfig
from pipeline.neighbors.stage import build_forest
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Stage
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings

CONFIG = NeighborsConfig(max_distance=0.5, tile_rows=40)
ROWS = 60


def _shard(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(20, 16)))
    rng = np.random.default_rng(seed)
    rows = unit(centers[rng.integers(0, 20, ROWS)] + 0.3 * rng.normal(size=(ROWS, 16)) / 4)
    return np.arange(ROWS) * 7919 + seed * 104_729_000_000, rows.astype(np.float16)


def _embed(root: Path, shards: dict[str, int]) -> list[tuple[int, int, float]]:
    """Write the stage before, shard by shard, and return the forest that is expected."""
    earlier = Stage(root, "teacher_embeddings", version=100, config={}, inputs=shards)
    with earlier.running():
        for name in earlier.pending():
            with earlier.output(name) as output:
                path = output.path(f"teacher_embeddings/{name}.parquet")
                write_embeddings(path, *_shard(name, shards[name]), id_column="image_id")
                output.rows = ROWS
        earlier.finish()
    parts = [_shard(name, seed) for name, seed in shards.items()]
    ids, rows = (np.concatenate(part) for part in zip(*parts))
    return brute_force_forest(ids, rows, CONFIG.max_distance)


def _build(root: Path) -> StageResult:
    return build_forest(root, CONFIG, ComputeConfig())


@pytest.mark.parametrize(
    ("second", "searched"),
    [
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "added"),
        ({"a": 1, "b": 2, "c": 9}, "all"),
        ({"a": 1, "b": 2}, "all"),
    ],
)
def test_second_run(second: dict[str, int], searched: str, tmp_path: Path) -> None:
    expected = _embed(tmp_path, {"a": 1, "b": 2, "c": 3})
    first = _build(tmp_path)
    assert read_forest(tmp_path / "near_duplicates" / "forest.parquet") == expected
    assert _build(tmp_path).computed == 0
    expected = _embed(tmp_path, second)
    result = _build(tmp_path)
    assert read_forest(tmp_path / "near_duplicates" / "forest.parquet") == expected
    assert first.stats["pairs"] == 180 * 179 // 2
    rows = len(second) * ROWS
    old = 180 if searched == "added" else 0
    assert result.stats["pairs"] == rows * (rows - 1) // 2 - old * (old - 1) // 2
    assert not (tmp_path / ".near_duplicates").exists()


def test_a_forest_of_an_earlier_version_is_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _embed(tmp_path, {"a": 1, "b": 2})
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_STAGE_VERSION", 2)
        _build(tmp_path)
    expected = _embed(tmp_path, {"a": 1, "b": 2, "c": 3})
    assert _build(tmp_path).stats["pairs"] == 180 * 179 // 2
    assert read_forest(tmp_path / "near_duplicates" / "forest.parquet") == expected


def test_other_reach_is_searched_from_the_start(tmp_path: Path) -> None:
    _embed(tmp_path, {"a": 1, "b": 2})
    _build(tmp_path)
    farther = CONFIG.model_copy(update={"max_distance": 0.6})
    assert build_forest(tmp_path, farther, ComputeConfig()).stats["pairs"] == 120 * 119 // 2

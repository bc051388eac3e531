"""The pair search against brute force in float64: data of many kinds, each cut, ordered and tiled in many ways."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.compute.config import ComputeConfig
from pipeline.compute.devices import expected as expected_device
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.neighbors import distances
from pipeline.neighbors import search as neighbors
from pipeline.neighbors import tile as tiles
from pipeline.neighbors import workspace as search
from pipeline.neighbors.search import BaseForest, near_duplicate_forest
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings

T = 0.447


def _isotropic(rng: np.random.Generator, width: int = 24) -> np.ndarray:
    return rng.normal(size=(240, width))


def _spectrum(rng: np.random.Generator, power: float) -> np.ndarray:
    return rng.normal(size=(240, 48)) / np.arange(1, 49) ** power


def _groups(rng: np.random.Generator, noise: float, size: int = 6, dtype: Any = np.float64) -> np.ndarray:
    centers = unit(rng.normal(size=(240 // size, 40)))
    return (np.repeat(centers, size, axis=0) + noise * rng.normal(size=(240 // size * size, 40)) / 40**0.5).astype(
        dtype
    )


def _chain(rng: np.random.Generator, step: float) -> np.ndarray:
    """Points along a great circle, `step` apart: single linkage joins all of them or none."""
    angles = np.arange(230) * 2 * np.arcsin(step / 2)
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return plane @ np.linalg.qr(rng.normal(size=(32, 2)))[0].T


def _boundary(rng: np.random.Generator) -> np.ndarray:
    """Pairs whose distance is the threshold, give or take 1e-6 and less."""
    x = unit(rng.normal(size=(120, 64)))
    other = rng.normal(size=x.shape)
    other = unit(other - (other * x).sum(axis=1, keepdims=True) * x)
    half = np.arcsin((T + rng.choice([-1e-6, -1e-7, 0, 1e-7, 1e-6], size=120)) / 2)
    y = np.cos(2 * half)[:, None] * x + np.sin(2 * half)[:, None] * other
    return np.concatenate([x, y])


def _simplex(rng: np.random.Generator) -> np.ndarray:
    """All distances equal: every edge is a tie."""
    return 0.98 * np.eye(1, 100, 99) + 0.2 * np.eye(99, 100)


def _giant(rng: np.random.Generator) -> np.ndarray:
    center = unit(rng.normal(size=(1, 64)))
    group = center + 0.1 * rng.normal(size=(180, 64)) / 8
    return np.concatenate([group, unit(rng.normal(size=(60, 64)))])


def _repeats(rng: np.random.Generator) -> np.ndarray:
    """Exact repeats of a few rows, next to near ones and to rows that differ by the sign of a zero."""
    few = unit(rng.normal(size=(20, 16)))
    few[:, 3] = 0.0
    rows = few[rng.integers(0, 20, 200)]
    rows[::7, 3] = -0.0
    rows[::11] += 1e-3 * rng.normal(size=rows[::11].shape)
    return rows


def _grid(rng: np.random.Generator) -> np.ndarray:
    """Few distinct coordinates: many equal distances that are no repeats."""
    return np.concatenate([np.ones((200, 1)) * 2, rng.integers(0, 2, size=(200, 9)) * 0.3], axis=1)


DATA: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "isotropic": _isotropic,
    "isotropic, narrow": lambda rng: _isotropic(rng, 4),
    "spectrum 1/sqrt(i)": lambda rng: _spectrum(rng, 0.5),
    "spectrum 1/i": lambda rng: _spectrum(rng, 1.0),
    "spectrum 1/i^2": lambda rng: _spectrum(rng, 2.0),
    "groups, tight": lambda rng: _groups(rng, 0.02),
    "groups, loose": lambda rng: _groups(rng, 0.3),
    "groups, at the threshold": lambda rng: _groups(rng, T / 2**0.5),
    "groups of sixty": lambda rng: _groups(rng, 0.25, 60),
    "groups, float32": lambda rng: _groups(rng, 0.2, dtype=np.float32),
    "chain within": lambda rng: _chain(rng, T - 1e-3),
    "chain beyond": lambda rng: _chain(rng, T + 1e-3),
    "chain at the threshold": lambda rng: _chain(rng, T),
    "boundary pairs": _boundary,
    "simplex": _simplex,
    "giant group": _giant,
    "exact repeats": _repeats,
    "grid": _grid,
    "low rank": lambda rng: rng.normal(size=(240, 3)) @ rng.normal(size=(3, 32)),
    "all equal": lambda rng: np.repeat(rng.normal(size=(1, 16)), 200, axis=0),
    "one row": lambda rng: rng.normal(size=(1, 8)),
    "two rows": lambda rng: rng.normal(size=(1, 8)) + 0.05 * rng.normal(size=(2, 8)),
    "width one": lambda rng: rng.choice([-1.0, 1.0], size=(60, 1)),
    "tiny differences": lambda rng: unit(rng.normal(size=(1, 24))) + 1e-7 * rng.normal(size=(150, 24)),
}


@dataclasses.dataclass(frozen=True)
class Cut:
    """One way to hand the same data over and to search it."""

    files: int
    seed: int
    tile_rows: int
    block: int
    crowded: int = 24
    prefix: int | None = None
    precision: Any = "float32"
    fixed: bool = True


CUTS = [
    Cut(files=1, seed=0, tile_rows=10_000, block=10_000),
    Cut(files=3, seed=1, tile_rows=64, block=32, crowded=0),
    Cut(files=7, seed=2, tile_rows=50, block=1000, prefix=1, fixed=False),
    Cut(files=2, seed=3, tile_rows=1000, block=17, crowded=1000, precision="bfloat16"),
    Cut(files=5, seed=4, tile_rows=33, block=9, crowded=1, precision="tfloat32"),
    Cut(files=1, seed=5, tile_rows=128, block=64, crowded=3, precision="bfloat16", prefix=1),
]


def _search(folder: Path, ids: np.ndarray, matrix: np.ndarray, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiles, "BLOCK_ROWS", cut.block)
    monkeypatch.setattr(distances, "CROWDED", cut.crowded)
    order = np.random.default_rng(cut.seed).permutation(len(ids))
    parts = np.array_split(order, cut.files)
    paths = [
        write_embeddings(folder / f"{cut.seed}-{n}.parquet", ids[part], matrix[part], fixed=cut.fixed)
        for n, part in enumerate(parts)
    ]
    output = folder / f"forest-{cut.seed}.parquet"
    near_duplicate_forest(
        paths, output, max_distance=T, tile_rows=cut.tile_rows, prefix=cut.prefix, precision=cut.precision
    )
    return output


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", DATA)
def test_equals_brute_force_however_it_is_cut(
    name: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(len(name))
    matrix = unit(DATA[name](rng).astype(np.float64)).astype(dtype)
    ids = rng.choice(2**40, len(matrix), replace=False).astype(np.int64) - 2**39
    expected = brute_force_forest(ids, matrix, T)
    for cut in CUTS:
        assert read_forest(_search(tmp_path, ids, matrix, cut, monkeypatch)) == expected, cut


@pytest.mark.parametrize("max_distance", [1e-4, 0.05, 1.0, 1.4142, 1.9])
def test_any_max_distance(max_distance: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = unit(np.concatenate([_groups(rng, 0.05), -_groups(rng, 0.05)])).astype(np.float16)
    ids = np.arange(len(matrix))
    path = write_embeddings(tmp_path / "e.parquet", ids, matrix)
    near_duplicate_forest(path, tmp_path / "f.parquet", max_distance=max_distance)
    assert read_forest(tmp_path / "f.parquet") == brute_force_forest(ids, matrix, max_distance)


@pytest.fixture
def embeddings(tmp_path: Path) -> tuple[list[Path], list[tuple[int, int, float]]]:
    """Five files and their forest."""
    rng = np.random.default_rng(7)
    matrix = unit(np.concatenate([_groups(rng, 0.2), _isotropic(rng, 40)])).astype(np.float16)
    ids = rng.permutation(len(matrix)).astype(np.int64)
    paths = [
        write_embeddings(tmp_path / "e" / f"{n}.parquet", ids[part], matrix[part])
        for n, part in enumerate(np.array_split(np.arange(len(ids)), 5))
    ]
    return paths, brute_force_forest(ids, matrix, T)


@pytest.mark.slow
def test_processes_give_the_same_file(embeddings: Any, tmp_path: Path) -> None:
    paths, expected = embeddings
    processes = ComputeConfig(engine="processes", workers=2)
    for name, compute in (("inline", None), ("processes", processes)):
        near_duplicate_forest(paths, tmp_path / name, max_distance=T, tile_rows=100, compute=compute)
    assert read_forest(tmp_path / "processes") == expected
    assert (tmp_path / "processes").read_bytes() == (tmp_path / "inline").read_bytes()


def test_a_worker_without_the_expected_gpu_does_its_tiles_itself(
    embeddings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, expected = embeddings
    monkeypatch.setattr(neighbors, "expected", lambda wanted, compute: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=100)
    assert read_forest(tmp_path / "f") == expected
    with pytest.raises(ConfigError, match="'cuda' was asked for, but torch finds none"):
        near_duplicate_forest(paths, tmp_path / "f", max_distance=T, device="cuda")


@pytest.mark.parametrize("gpu_here", [True, False])
def test_on_ray_the_tasks_say_where_tiles_are_searched_not_the_driver(
    gpu_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_here)
    with_gpus, without = (ComputeConfig(engine="ray", gpus_per_task=share) for share in (0.5, 0))
    assert [expected_device("auto", compute) for compute in (with_gpus, without)] == ["cuda", "cpu"]
    assert expected_device("cpu", with_gpus) == "cpu" and expected_device("cuda", without) == "cuda"
    assert expected_device("auto", ComputeConfig()) == ("cuda" if gpu_here else "cpu")


def test_merging_in_a_tree_changes_nothing(embeddings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, expected = embeddings
    monkeypatch.setattr(search, "_MERGED_TOGETHER", 2)
    report = near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=60)
    assert report.tiles == 36
    assert read_forest(tmp_path / "f") == expected


def test_unfinished_search_goes_on_with_the_other_tiles(
    embeddings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, expected = embeddings
    done = []

    def failing(tile: tiles.Tile) -> tiles.TileResult:
        if len(done) == 7:
            raise OSError(28, "No space left on device")
        done.append(tile)
        return tiles.run_tile(tile)

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_tile", failing)
        with pytest.raises(OSError, match="No space"):
            near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=100)
    assert not (tmp_path / "f").exists()
    report = near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=100)
    assert (report.tiles, report.tiles_computed) == (15, 8)
    assert read_forest(tmp_path / "f") == expected
    assert not list(tmp_path.glob(".f*"))


@pytest.mark.slow
def test_killed_search_goes_on(embeddings: Any, tmp_path: Path) -> None:
    paths, expected = embeddings
    script = (
        "import sys, json; from pathlib import Path; from pipeline.neighbors import near_duplicate_forest\n"
        "paths, output = json.loads(sys.argv[1]), Path(sys.argv[2])\n"
        f"print(near_duplicate_forest([Path(p) for p in paths], output, max_distance={T}, tile_rows=20))\n"
    )
    command = [sys.executable, "-c", script, json.dumps([str(path) for path in paths]), str(tmp_path / "f")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    process = subprocess.Popen(command, env=environment)
    finished = tmp_path / ".f.work" / "tiles"
    deadline = time.monotonic() + 300
    while len(list(finished.glob("0*.npz"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "f").exists(), "the search ended before it could be killed"
    report = near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=20)
    assert report.tiles_computed <= report.tiles - 3
    assert read_forest(tmp_path / "f") == expected


def test_changed_input_is_not_mistaken_for_the_unfinished_one(embeddings: Any, tmp_path: Path) -> None:
    paths, expected = embeddings
    work = tmp_path / "work"
    near_duplicate_forest(paths[:3], tmp_path / "f", max_distance=T, tile_rows=100, work=work)
    (work / "tiles").mkdir(parents=True)
    (work / "identity").write_text("another search")
    (work / "tiles" / "000000000000-000000000000.npz").write_bytes(b"of another search")
    near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=100, work=work)
    assert read_forest(tmp_path / "f") == expected


@pytest.mark.parametrize("covered", [0, 1, 3, 5])
def test_added_files_cost_only_their_own_tiles(covered: int, embeddings: Any, tmp_path: Path) -> None:
    paths, expected = embeddings
    old = tmp_path / "old.parquet"
    near_duplicate_forest(paths[:covered] or paths[:1], old, max_distance=T, tile_rows=50)
    base = BaseForest(forest=old, embeddings=tuple(paths[:covered])) if covered else None
    report = near_duplicate_forest(paths, tmp_path / "f", max_distance=T, tile_rows=50, base=base)
    assert read_forest(tmp_path / "f") == expected
    all_pairs = report.distinct * (report.distinct - 1) // 2
    known = sum(pq.read_metadata(path).num_rows for path in paths[:covered])
    assert report.pairs == all_pairs - known * (known - 1) // 2


def test_added_repeats_of_old_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = unit(_repeats(rng)).astype(np.float16)
    ids = rng.permutation(len(rows)).astype(np.int64)
    paths = [write_embeddings(tmp_path / f"{n}.parquet", ids[n::2], rows[n::2]) for n in range(2)]
    near_duplicate_forest(paths[:1], tmp_path / "old", max_distance=T)
    base = BaseForest(forest=tmp_path / "old", embeddings=(paths[0],))
    near_duplicate_forest(paths, tmp_path / "f", max_distance=T, base=base)
    assert read_forest(tmp_path / "f") == brute_force_forest(ids, rows, T)


def test_mixed_float_types_take_the_widest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = unit(_groups(rng, 0.2))
    types = [np.float16, np.float32, np.float64]
    paths = [
        write_embeddings(tmp_path / f"{n}.parquet", np.arange(80) + 80 * n, rows[80 * n :][:80].astype(t))
        for n, t in enumerate(types)
    ]
    near_duplicate_forest(paths, tmp_path / "f", max_distance=T)
    stored = np.concatenate([rows[80 * n :][:80].astype(t).astype(np.float32) for n, t in enumerate(types)])
    assert read_forest(tmp_path / "f") == brute_force_forest(np.arange(240), stored, T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m * np.where(np.arange(30) < 3, np.nan, 1)[:, None], "bad.parquet: 3 of 30 vectors are not finite"),
        (lambda m: m * np.where(np.arange(30) < 2, np.inf, 1)[:, None], "bad.parquet: 2 of 30 vectors are not finite"),
        (
            lambda m: m * np.where(np.arange(30) < 4, 0, 1)[:, None],
            r"bad.parquet: 4 of 30 .* unit length, lengths 0 to 0",
        ),
        (lambda m: m * 3, r"bad.parquet: 30 of 30 vectors are not of unit length, lengths 3 to 3"),
        (lambda m: m[:, :5] / np.linalg.norm(m[:, :5], axis=1, keepdims=True), "mixed widths"),
    ],
)
@pytest.mark.parametrize("fixed", [True, False])
def test_bad_vectors_are_named_and_counted(change: Any, message: str, fixed: bool, tmp_path: Path) -> None:
    good = unit(np.random.default_rng(0).normal(size=(30, 12)))
    write_embeddings(tmp_path / "e" / "a.parquet", np.arange(30), good, fixed=fixed)
    write_embeddings(tmp_path / "e" / "bad.parquet", np.arange(30) + 30, change(good), fixed=fixed)
    if "mixed" in message and not fixed:
        message = "bad.parquet: embeddings of width 5, those before are 12 wide"
    with pytest.raises(EmbeddingError, match=message):
        near_duplicate_forest(tmp_path / "e", tmp_path / "f", max_distance=T)
    assert not (tmp_path / "f").exists()


def test_bad_tables_are_named(tmp_path: Path) -> None:
    rows = unit(np.random.default_rng(0).normal(size=(30, 12)))
    path = tmp_path / "e.parquet"

    def fails(message: str) -> None:
        with pytest.raises(EmbeddingError, match=message):
            near_duplicate_forest(path, tmp_path / "f", max_distance=T)

    fails("no Parquet file of embeddings")
    write_embeddings(path, np.array([1, 2, 2, *range(3, 30)]), rows)
    fails("1 rows repeat a sample_id .* e.g. 2 in .*e.parquet")
    write_embeddings(path, np.empty(0), rows[:0])
    fails("without a row")
    pq.write_table(pa.table({"sample_id": [1], "vector": [[1.0]]}), path)
    fails(r"no column \['image_embedding'\]; it has \['sample_id', 'vector'\]")
    pq.write_table(pa.table({"sample_id": [1, 2, 3], "image_embedding": [[1.0], None, None]}), path)
    fails("2 of 3 embeddings are null")
    pq.write_table(pa.table({"sample_id": [1, 2], "image_embedding": [[1.0], [0.6, 0.8]]}), path)
    fails("mixed widths")
    pq.write_table(pa.table({"sample_id": ["a"], "image_embedding": [[1.0]]}), path)
    fails("column sample_id: expected integers, got string")
    pq.write_table(pa.table({"sample_id": pa.array([2**63], pa.uint64()), "image_embedding": [[1.0]]}), path)
    fails("column sample_id: expected 64-bit signed integers; Integer value 9223372036854775808 not in range")
    pq.write_table(pa.table({"sample_id": [1, None], "image_embedding": [[1.0], [1.0]]}), path)
    fails("e.parquet: 1 rows without a sample_id")
    pq.write_table(pa.table({"sample_id": [1], "image_embedding": [[1]]}), path)
    fails("expected lists of floats, got lists of int64")
    path.write_bytes(b"not Parquet")
    fails("not a readable Parquet file")


def test_ids_stand_in_the_column_that_is_named(embeddings: Any, tmp_path: Path) -> None:
    paths, expected = embeddings
    renamed = [tmp_path / "renamed" / path.name for path in paths]
    renamed[0].parent.mkdir()
    for path, new in zip(paths, renamed):
        table = pq.read_table(path)
        # What is called sample_id here is not looked at.
        pq.write_table(
            table.rename_columns({"sample_id": "image_id"}).append_column("sample_id", [[7] * len(table)]), new
        )
    near_duplicate_forest(renamed[:2], tmp_path / "old", max_distance=T, id_column="image_id")
    base = BaseForest(forest=tmp_path / "old", embeddings=tuple(renamed[:2]))
    near_duplicate_forest(renamed, tmp_path / "f", max_distance=T, id_column="image_id", base=base)
    assert read_forest(tmp_path / "f") == expected
    with pytest.raises(EmbeddingError, match="repeat a sample_id that stands before"):
        near_duplicate_forest(renamed, tmp_path / "f", max_distance=T)
    with pytest.raises(EmbeddingError, match=r"no column \['image_id'\]; it has \['sample_id', 'image_embedding'\]"):
        near_duplicate_forest(paths, tmp_path / "f", max_distance=T, id_column="image_id")


@pytest.mark.parametrize("max_distance", [0, -1, 2, 2.5, float("nan")])
def test_impossible_distance(max_distance: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must lie in"):
        near_duplicate_forest(tmp_path, tmp_path / "f", max_distance=max_distance)


def test_memory_limit_is_refused_with_figures(embeddings: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"480 rows needs up to 0\.\d GB of memory, memory_limit is 100MB"):
        near_duplicate_forest(embeddings[0], tmp_path / "f", max_distance=T, memory_limit=10**8)
    with pytest.raises(ConfigError, match="memory_limit is 100MB"):
        near_duplicate_forest(embeddings[0], tmp_path / "f", max_distance=T, memory_limit="100MB")
    with pytest.raises(ConfigError, match="memory_limit: Input should be a size such as 512MB or 4GB, got 'lots'"):
        near_duplicate_forest(embeddings[0], tmp_path / "f", max_distance=T, memory_limit="lots")

"""All pairs between two sets against brute force in float64: data of many kinds, each cut and searched in many ways."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import cdist

from pipeline.compute.config import ComputeConfig
from pipeline.core import schema
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.neighbors import tile as tiles
from pipeline.neighbors import workspace
from pipeline.neighbors.between import near_pairs_between
from tests.oracles import read_forest, unit, write_embeddings
from tests.pipeline.neighbors.test_near_duplicate_forest import DATA, T

Rows = tuple[np.ndarray, np.ndarray]


def _brute_force(a: Rows, b: Rows, max_distance: float = T) -> list[tuple[int, int, float]]:
    distance = cdist(a[1].astype(np.float64), b[1].astype(np.float64)).astype(np.float32)
    i, j = np.nonzero(distance <= np.float32(max_distance))
    return sorted(zip(a[0][i].tolist(), b[0][j].tolist(), distance[i, j].tolist()))


def _sides(name: str, dtype_b: Any = np.float16) -> tuple[Rows, Rows]:
    """A third of the rows on one side, the others on the other, some on both; they use the same ids."""
    rng = np.random.default_rng(len(name))
    rows = unit(DATA[name](rng).astype(np.float64))
    rows = rows[rng.permutation(len(rows))]
    third = -(-len(rows) // 3)
    first, second = rows[:third].astype(np.float16), np.concatenate([rows[third:], rows[:9]]).astype(dtype_b)
    return (rng.permutation(len(first)) - 7, first), (rng.permutation(len(second)) - 7, second)


def _write(folder: Path, side: Rows, files: int, id_column: str = "sample_id") -> list[Path]:
    parts = np.array_split(np.random.default_rng(files).permutation(len(side[0])), files)
    return [
        write_embeddings(folder / f"{n}.parquet", side[0][part], side[1][part], id_column=id_column)
        for n, part in enumerate(parts)
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", DATA)
def test_equals_brute_force_however_it_is_cut(
    name: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = _sides(name, dtype)
    expected = _brute_force(*((ids, rows.astype(np.float32)) for ids, rows in (a, b)))
    for files, tile_rows, block, written, options in (
        (1, 10_000, 10_000, 1 << 20, {}),
        (3, 64, 32, 10, {"precision": "bfloat16"}),
        (2, 50, 17, 1000, {"precision": "tfloat32", "prefix": 1}),
    ):
        monkeypatch.setattr(tiles, "BLOCK_ROWS", block)
        monkeypatch.setattr(tiles, "_WRITTEN", written)
        paths = _write(tmp_path / "a", a, files), _write(tmp_path / "b", b, files + 1)
        report = near_pairs_between(*paths, tmp_path / "f", max_distance=T, tile_rows=tile_rows, **options)
        assert read_forest(tmp_path / "f") == expected, (files, options)
        assert (report.near, report.pairs) == (len(expected), len(a[0]) * len(b[0]))
        assert (report.samples_a, report.samples_b) == (len(a[0]), len(b[0]))
    found = pq.read_schema(tmp_path / "f")
    assert found.equals(schema.NEAR_DUPLICATES) and float(found.metadata[b"max_distance"]) == T
    assert not list(tmp_path.glob(".f*"))


def test_a_pair_exactly_at_the_bound_is_near(tmp_path: Path) -> None:
    for name in ("grid", "simplex", "groups, float32"):
        a, b = _sides(name)
        everything = _brute_force(a, b, 2)
        bound = min(distance for _, _, distance in everything if distance)
        paths = _write(tmp_path / "a", a, 1), _write(tmp_path / "b", b, 1)
        near_pairs_between(*paths, tmp_path / "f", max_distance=bound)
        expected = [pair for pair in everything if pair[2] <= bound]
        assert bound in [distance for _, _, distance in expected]
        assert read_forest(tmp_path / "f") == expected


def test_a_set_with_itself_holds_each_image_with_itself(tmp_path: Path) -> None:
    a, _ = _sides("exact repeats")
    paths = _write(tmp_path / "a", a, 2, "image_id")
    near_pairs_between(
        tmp_path / "a", paths, tmp_path / "f", max_distance=T, id_column_a="image_id", id_column_b="image_id"
    )
    found = read_forest(tmp_path / "f")
    assert found == _brute_force(a, a)
    assert {(id_, id_, 0.0) for id_ in a[0].tolist()} <= set(found)


@pytest.mark.parametrize("empty", ["a", "b", "ab"])
def test_nothing_is_near_what_is_not_there(empty: str, tmp_path: Path) -> None:
    a, _ = _sides("groups, tight")
    for name in "ab":
        _write(tmp_path / name, (a[0][:0], a[1][:0]) if name in empty else a, 1)
    report = near_pairs_between(tmp_path / "a", tmp_path / "b", tmp_path / "f", max_distance=T)
    assert (report.near, report.pairs, report.tiles) == (0, 0, 0)
    assert pq.read_table(tmp_path / "f").equals(schema.NEAR_DUPLICATES.empty_table())
    with pytest.raises(EmbeddingError, match="no Parquet file of embeddings"):
        near_pairs_between(tmp_path / "a", tmp_path / "c", tmp_path / "f", max_distance=T)


def test_an_unfinished_search_goes_on_with_the_other_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _sides("groups of sixty")
    paths = _write(tmp_path / "a", a, 1), _write(tmp_path / "b", b, 2)
    done = []

    def failing(tile: tiles.Tile) -> tiles.TileResult:
        if len(done) == 3:
            raise OSError(28, "No space left on device")
        done.append(tile)
        return tiles.run_tile(tile)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(workspace, "run_tile", failing)
        near_pairs_between(*paths, tmp_path / "f", max_distance=T, tile_rows=50)
    assert not (tmp_path / "f").exists()
    report = near_pairs_between(*paths, tmp_path / "f", max_distance=T, tile_rows=50)
    assert (report.tiles, report.tiles_computed) == (8, 5)
    assert read_forest(tmp_path / "f") == _brute_force(a, b)


@pytest.mark.slow
def test_processes_give_the_same_file(tmp_path: Path) -> None:
    a, b = _sides("giant group")
    paths = _write(tmp_path / "a", a, 1), _write(tmp_path / "b", b, 2)
    for name, compute in (("f", None), ("g", ComputeConfig(engine="processes", workers=2))):
        near_pairs_between(*paths, tmp_path / name, max_distance=T, tile_rows=50, compute=compute)
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    a, b = _sides("isotropic")
    _write(tmp_path / "a", a, 1)
    for name, side, message in (
        ("narrow", (b[0], unit(b[1][:, :7])), r"narrow/0.parquet: embeddings of width 7, those before are 24 wide"),
        ("long", (b[0], 2 * b[1]), r"long/0.parquet: 169 of 169 vectors are not of unit length"),
        ("twice", (b[0] // 2, b[1]), r"rows repeat a sample_id that stands before, e.g. .* in .*twice/0.parquet"),
    ):
        _write(tmp_path / name, side, 1)
        with pytest.raises(EmbeddingError, match=message):
            near_pairs_between(tmp_path / "a", tmp_path / name, tmp_path / "f", max_distance=T)
    with pytest.raises(EmbeddingError, match=r"a/0.parquet: no column \['image_id'\]"):
        near_pairs_between(tmp_path / "a", tmp_path / "a", tmp_path / "f", max_distance=T, id_column_b="image_id")
    with pytest.raises(ConfigError, match="must lie in"):
        near_pairs_between(tmp_path / "a", tmp_path / "a", tmp_path / "f", max_distance=2)
    with pytest.raises(ConfigError, match=r"160 rows needs up to .* memory_limit is 100MB"):
        near_pairs_between(tmp_path / "a", tmp_path / "a", tmp_path / "f", max_distance=T, memory_limit="100MB")
    assert not (tmp_path / "f").exists()

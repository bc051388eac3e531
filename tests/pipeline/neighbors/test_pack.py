from pathlib import Path

import numpy as np
import pytest

from pipeline.neighbors import pack as packed
from pipeline.neighbors.pack import Side, pack
from tests.oracles import unit, write_embeddings


def _pack(folder: Path, ids: np.ndarray, matrix: np.ndarray, files: int = 3) -> packed.Packed:
    paths = [
        write_embeddings(folder / f"{n}.parquet", ids[part], matrix[part])
        for n, part in enumerate(np.array_split(np.arange(len(ids)), files))
    ]
    return pack([Side(paths=tuple(paths))], folder)


@pytest.mark.parametrize("width", [1, 3, 8, 13])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_stand_as_they_were_read_with_the_places_of_their_ids(width: int, dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(10**9, 500, replace=False) - 5 * 10**8
    matrix = unit(rng.normal(size=(500, width))).astype(dtype)
    found = _pack(tmp_path, ids, matrix)
    assert np.array_equal(found.ids, np.sort(ids))
    assert np.array_equal(found.matrix, matrix)
    assert np.array_equal(found.ids[found.numbers], ids)
    assert found.matrix.dtype == dtype


def test_equal_rows_hang_on_that_of_the_smallest_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few = unit(rng.normal(size=(7, 10))).astype(np.float16)
    which, ids = rng.integers(0, 7, 200), rng.permutation(200)
    found = _pack(tmp_path, ids, few[which])
    firsts = np.array([ids[which == w].min() for w in range(7)])
    assert np.array_equal(np.sort(found.numbers[found.distinct]), np.sort(firsts))
    edges = dict(zip(found.repeats.b.tolist(), found.repeats.a.tolist()))
    assert edges == {int(id_): int(firsts[w]) for id_, w in zip(ids, which) if id_ not in firsts}
    assert (found.repeats.distance == 0).all()


def test_zeros_of_either_sign_are_equal(tmp_path: Path) -> None:
    rows = np.array([[1.0, 0.0], [1.0, -0.0], [-0.0, 1.0]], np.float16)
    found = _pack(tmp_path, np.arange(3), rows, files=1)
    assert found.distinct.tolist() == [0, 2]
    assert not np.signbit(found.matrix).any()


def test_equal_hashes_of_unequal_rows_merge_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_row_hashes", lambda rows: np.zeros(len(rows), np.uint64))
    rows = np.repeat(unit(np.random.default_rng(0).normal(size=(4, 6))), 2, axis=0).astype(np.float16)
    found = _pack(tmp_path, np.arange(8), rows, files=1)
    # Only rows equal to the first of the bucket are seen to be equal; the search finds the others at distance zero.
    assert found.distinct.tolist() == [0, 2, 3, 4, 5, 6, 7]


def test_rows_do_not_hash_alike() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (20_000, 64)).astype(np.float16)
    distinct = np.unique(rows, axis=0)
    assert len(np.unique(packed._row_hashes(np.ascontiguousarray(distinct)))) == len(distinct)

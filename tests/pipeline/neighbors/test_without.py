"""The forest of what is left against a search of what is left, byte by byte, and against brute force in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.neighbors.search import near_duplicate_forest
from pipeline.neighbors.without import WithoutReport, forest_without
from tests.oracles import brute_force_forest, read_forest, unit, write_embeddings
from tests.pipeline.neighbors.test_near_duplicate_forest import DATA, T

KINDS = [
    "chain within",
    "chain at the threshold",
    "exact repeats",
    "all equal",
    "simplex",
    "grid",
    "giant group",
    "groups of sixty",
    "groups, float32",
    "tiny differences",
    "isotropic, narrow",
    "one row",
]


def _data(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(name))
    rows = unit(DATA[name](rng).astype(np.float64))
    return rng.choice(2**40, len(rows), replace=False) - 2**39, rows.astype(np.float16)


def _check(folder: Path, ids: np.ndarray, rows: np.ndarray, dropped: np.ndarray, **options: Any) -> WithoutReport:
    """Compare with the search of the rest; returns what is reported."""
    folder.mkdir(exist_ok=True)
    files = [write_embeddings(folder / f"e{n}.parquet", ids[n::3], rows[n::3]) for n in range(3) if len(ids) > n]
    near_duplicate_forest(files, folder / "whole", max_distance=T)
    report = forest_without(files, folder / "whole", dropped, folder / "without", **options)
    left = ~np.isin(ids, dropped)
    expected = brute_force_forest(ids[left], rows[left], T) if left.any() else []
    assert read_forest(folder / "without") == expected
    if left.any():
        write_embeddings(folder / "left.parquet", ids[left], rows[left])
        near_duplicate_forest(folder / "left.parquet", folder / "anew", max_distance=T)
        assert (folder / "without").read_bytes() == (folder / "anew").read_bytes()
    assert (report.samples, report.dropped, report.edges) == (left.sum(), (~left).sum(), len(expected))
    assert not list(folder.glob(".*"))
    return report


@pytest.mark.parametrize("share", [0.03, 0.4, 0.9])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_forest_of_what_is_left(name: str, share: float, tmp_path: Path) -> None:
    ids, rows = _data(name)
    dropped = np.random.default_rng(1).permutation(ids)[: int(np.ceil(share * len(ids)))]
    _check(tmp_path, ids, rows, np.concatenate([dropped, dropped[:2]]), tile_rows=37)


def test_all_or_nothing(tmp_path: Path) -> None:
    ids, rows = _data("groups of sixty")
    assert _check(tmp_path / "none", ids, rows, ids[:0]).searched == 0
    assert (tmp_path / "none" / "without").read_bytes() == (tmp_path / "none" / "whole").read_bytes()
    report = _check(tmp_path / "all", ids, rows, ids)
    assert (report.samples, report.searched, report.edges) == (0, 0, 0)


def test_a_link_is_lost_and_a_detour_takes_its_place(tmp_path: Path) -> None:
    """Along a circle: 0 - 1 - 2 at steps of 0.2, so 0 and 2 are 0.4 apart; 3 - 4 - 5 at steps of 0.3, 0.59 apart."""
    angles = np.array([0, 0.2, 0.4, 2.0, 2.3, 2.6])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    write_embeddings(tmp_path / "e.parquet", np.arange(6), rows.astype(np.float32))
    near_duplicate_forest(tmp_path / "e.parquet", tmp_path / "whole", max_distance=T)
    assert {edge[:2] for edge in read_forest(tmp_path / "whole")} == {(0, 1), (1, 2), (3, 4), (4, 5)}
    report = forest_without(tmp_path / "e.parquet", tmp_path / "whole", np.array([1, 4]), tmp_path / "f")
    assert [edge[:2] for edge in read_forest(tmp_path / "f")] == [(0, 2)]
    assert (report.searched, report.added, report.edges) == (4, 1, 1)


def test_only_what_fell_apart_is_searched(tmp_path: Path) -> None:
    """A chain cut in its middle, one that loses its end, and many images that are near to none."""
    rng = np.random.default_rng(0)
    angles = np.arange(41) * 2 * np.arcsin(0.1)
    planes = np.linalg.qr(rng.normal(size=(64, 4)))[0].T
    arcs = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 1.0
    rows = np.concatenate([arcs[:15] @ planes[:2], arcs[:15] @ planes[2:], unit(rng.normal(size=(300, 64)))])
    report = _check(tmp_path, np.arange(330), rows.astype(np.float16), np.array([5, 29]))
    # Fragments of 5 and 9 images: of the pairs those within the larger are known.
    assert (report.searched, report.pairs, report.added) == (14, 14 * 13 // 2 - 9 * 8 // 2, 1)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    ids, rows = _data("groups of sixty")
    path = write_embeddings(tmp_path / "e.parquet", ids, rows, id_column="image_id")
    near_duplicate_forest(path, tmp_path / "whole", max_distance=T, id_column="image_id")
    strange = np.array([int(ids[3]), 2**50])
    with pytest.raises(
        EmbeddingError, match=f"1 of 2 ids to leave out are no image_id of the embeddings, e.g. {2**50}"
    ):
        forest_without(path, tmp_path / "whole", strange, tmp_path / "f", id_column="image_id")
    with pytest.raises(EmbeddingError, match=r"no column \['sample_id'\]"):
        forest_without(path, tmp_path / "whole", ids[:1], tmp_path / "f")
    other = write_embeddings(tmp_path / "other.parquet", ids[:200], rows[:200])
    with pytest.raises(EmbeddingError, match=r"whole: \d+ ends of edges are no ids of these embeddings, e.g. "):
        forest_without(other, tmp_path / "whole", ids[:1], tmp_path / "f")
    pq.write_table(pa.table({"id_a": [1], "id_b": [2], "distance": [0.1]}), tmp_path / "whole")
    with pytest.raises(ConfigError, match="does not say up to which distance it holds"):
        forest_without(other, tmp_path / "whole", ids[:1], tmp_path / "f")
    assert not (tmp_path / "f").exists()

"""Each rule against a brute-force oracle, and what must hold for all of them."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from pipeline.balance.rules.random_subset import kept_by_chance
from pipeline.balance.rules.semdedup import _links_of_cell
from pipeline.balance.semantic_balance import BalanceReport, semantic_balance
from pipeline.core.errors import ConfigError
from pipeline.neighbors.search import near_duplicate_forest
from tests.pipeline.balance.test_balance import planted, write

RULES = ("connected_components", "bounded", "semdedup", "random")


def balance(folder: Path, parts: list[Path], **options: object) -> tuple[BalanceReport, list[dict], list[dict]]:
    folder.mkdir(parents=True, exist_ok=True)
    near_duplicate_forest(parts, folder / "forest.parquet", max_distance=0.6, tile_rows=100)
    report = semantic_balance(parts, folder / "forest.parquet", folder, cell_iterations=5, **options)
    tables = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("balance_groups", "removed_pairs"))
    return report, *tables


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("blocking", [False, True])
def test_tables_of_every_rule(tmp_path: Path, rule: str, blocking: bool) -> None:
    """One survivor per group; kept, removed and blocked make up the input; nothing depends on order or division."""
    ids, matrix = planted(2)
    listed = tmp_path / "list.txt"
    blocked = set(ids[::7].tolist()) if blocking else set()
    listed.write_text("\n".join(map(str, blocked)))
    options = {"rule": rule, "threshold": 0.3, "blocklist": [listed] if blocking else [], "cells": 4, "seed": 1}
    report, groups, removed = balance(tmp_path / "a", [write(tmp_path / "e.parquet", ids, matrix)], **options)
    kept = {row["sample_id"] for row in groups if row["kept"]}
    assert {row["group_id"] for row in groups} == kept
    assert sum(row["kept"] for row in groups) == len(kept) == report.kept
    gone = {row["sample_id"] for row in removed}
    assert {row["kept_sample_id"] for row in removed} <= kept
    assert (len(gone), len(blocked)) == (report.removed, report.blocked)
    assert gone | kept | blocked == set(ids.tolist())
    assert len(gone) + len(kept) + len(blocked) == report.samples == len(ids)
    place = {int(name): number for number, name in enumerate(ids)}
    for row in removed:
        distance = np.linalg.norm(matrix[place[row["sample_id"]]].astype(float) - matrix[place[row["kept_sample_id"]]])
        assert row["distance_to_center"] == pytest.approx(distance, abs=1e-6)
    for row in groups:
        assert row["group_size"] == sum(other["group_id"] == row["group_id"] for other in groups)
    order = np.random.default_rng(0).permutation(len(ids))
    parts = [write(tmp_path / f"{n}.parquet", ids[order][n::3], matrix[order][n::3]) for n in range(3)]
    _, again, _ = balance(tmp_path / "b", parts, **options)
    assert again == groups


def test_a_random_set_of_a_size_is_what_the_rule_keeps(tmp_path: Path) -> None:
    ids, matrix = planted(2)
    report, groups, _ = balance(tmp_path, [write(tmp_path / "e.parquet", ids, matrix)], rule="random", threshold=0.3)
    kept = sorted(row["sample_id"] for row in groups if row["kept"])
    with duckdb.connect() as connection:
        for order in (ids, ids[::-1]):
            assert kept_by_chance(connection, order, report.kept, seed=0).tolist() == kept
        assert kept_by_chance(connection, ids, report.kept, seed=1).tolist() != kept


def test_semdedup_with_one_cell_against_all_pairs(tmp_path: Path) -> None:
    ids, matrix = planted(3)
    report, groups, removed = balance(
        tmp_path, [write(tmp_path / "e.parquet", ids, matrix)], rule="semdedup", threshold=0.3, cells=1
    )
    vectors = matrix.astype(np.float64)
    distance = squareform(pdist(vectors))
    kept = {row["sample_id"] for row in groups if row["kept"]}
    near = distance <= 0.3
    # One cell misses no pair, so its survivors are a set from which every component keeps at least one.
    labels = connected_components(near)[1]
    assert set(labels[np.isin(ids, list(kept))]) == set(labels)
    # Two survivors may be near each other only through one that came later than both: never directly.
    survivors = np.isin(ids, list(kept))
    assert not np.triu(near & survivors & survivors[:, None], 1).any()
    assert report.kept >= len(set(labels))
    assert len(removed) == report.removed


@pytest.mark.parametrize("rows", [1, 2, 1500])
def test_links_are_the_nearest_earlier_images(rows: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(rows, 6))
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    ids = rng.permutation(rows)
    parts = [(ids[: rows // 2], matrix[: rows // 2]), (ids[rows // 2 :], matrix[rows // 2 :])]
    found = _links_of_cell(parts).to_pylist()
    distance = squareform(pdist(matrix.astype(np.float64)))
    assert [row["image_id"] for row in found] == ids[1:].tolist()
    for place, row in enumerate(found, start=1):
        nearest = distance[place, :place].argmin()
        assert row["earlier_id"] == ids[nearest]
        assert row["distance"] == pytest.approx(distance[place, nearest], abs=1e-6)


def test_random_removes_as_many_as_connected_components_by_seed(tmp_path: Path) -> None:
    ids, matrix = planted(4)
    parts = [write(tmp_path / "e.parquet", ids, matrix)]
    reference, _, _ = balance(tmp_path, parts, threshold=0.3)
    kept = {}
    for seed in (0, 1):
        report, groups, _ = balance(tmp_path, parts, rule="random", threshold=0.3, seed=seed)
        assert (report.kept, report.removed) == (reference.kept, reference.removed)
        kept[seed] = {row["sample_id"] for row in groups if row["kept"]}
    assert kept[0] != kept[1]
    _, groups, _ = balance(tmp_path, parts, rule="random", threshold=0.1, seed=0)
    # A smaller removal keeps what a larger one keeps.
    assert kept[0] < {row["sample_id"] for row in groups if row["kept"]}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_target_and_sweep_fit_the_rule(tmp_path: Path, rule: str) -> None:
    ids, matrix = planted(6)
    parts = [write(tmp_path / "e.parquet", ids, matrix)]
    report, _, _ = balance(tmp_path, parts, rule=rule, target_removal=0.3, cells=4)
    assert report.removed >= 0.3 * len(ids)
    smaller = float(np.nextafter(np.float32(report.threshold), np.float32(0)))
    assert balance(tmp_path, parts, rule=rule, threshold=smaller, cells=4)[0].removed < 0.3 * len(ids)
    assert len(report.sweep) >= 50
    for row in report.sweep[10::25]:
        assert balance(tmp_path, parts, rule=rule, threshold=row["threshold"], cells=4)[0].removed == row["removed"]


def test_rules_compared_by_the_concepts_that_are_left(tmp_path: Path) -> None:
    """A concept is a component: CLIP-CID's rule keeps each once, chance keeps their imbalance."""
    ids, matrix = planted(8, groups=200)
    parts = [write(tmp_path / "e.parquet", ids, matrix)]
    reports = {rule: balance(tmp_path, parts, rule=rule, threshold=0.3, cells=4)[0] for rule in RULES}
    sizes = np.bincount(connected_components(squareform(pdist(matrix.astype(np.float64))) <= 0.3)[1])
    share = sizes / sizes.sum()
    for report in reports.values():
        assert report.effective_concepts_before == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=1e-4)
    ours, bounded, theirs, chance = (reports[rule] for rule in RULES)
    assert ours.effective_concepts_after == pytest.approx(ours.kept, abs=1e-4)
    assert chance.effective_concepts_after < ours.effective_concepts_after
    assert max(theirs.removed, bounded.removed) <= ours.removed


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    ids, matrix = planted(8)
    parts = [write(tmp_path / "e.parquet", ids, matrix)]
    for options, message in [
        ({"rule": "random", "max_distance_to_center": 0.1}, "no meaning with rule random"),
        ({"rule": "semdedup", "cells": 10**6}, f"1000000 cells asked of {len(ids)} images"),
        ({"rule": "semdedup", "cells": 0}, "cells"),
        ({"rule": "nearest"}, "rule"),
    ]:
        with pytest.raises(ConfigError, match=message):
            balance(tmp_path, parts, threshold=0.3, **options)

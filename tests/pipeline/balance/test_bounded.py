"""Rule `bounded` against cutting by the book: each component apart, in float64, from the longest edge down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.cluster.hierarchy import linkage, to_tree
from scipy.spatial.distance import cdist, pdist

from pipeline.balance.semantic_balance import BalanceReport, semantic_balance
from pipeline.core import schema
from pipeline.core.errors import ConfigError
from tests.oracles import brute_force_forest, unit, write_embeddings
from tests.pipeline.balance.test_balance import planted
from tests.pipeline.balance.world import World, make_world

REACH = 0.6
_FORESTS: dict[tuple[bytes, bytes], list[tuple[int, int, float]]] = {}
Center = Callable[[np.ndarray], int]
Data = Callable[[int], tuple[np.ndarray, np.ndarray]]


def groups(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return planted(seed, groups=40)


def spheres(seed: int, *, rows: int = 150, width: int = 4, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Blobs that run into each other, with copies: groups of every kind between tight and chained."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(8, width))
    matrix = centers[rng.integers(8, size=rows)] + spread * rng.normal(size=(rows, width)) * rng.random((rows, 1))
    matrix[rng.integers(rows, size=rows // 10)] = matrix[rng.integers(rows, size=rows // 10)]
    return rng.choice(2**40, rows, replace=False) - 2**39, unit(matrix).astype(np.float16)


def lattice(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Few different vectors with copies, so that many distances tie exactly."""
    rng = np.random.default_rng(seed)
    corners = np.array([[3, 4, 0], [4, 3, 0], [0, 3, 4], [0, 4, 3], [3, 0, 4], [4, 0, 3]]) / 5
    signs = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)])
    matrix = np.concatenate([corners * sign for sign in signs])
    matrix = matrix[rng.integers(len(matrix), size=60)]
    return rng.permutation(1000)[:60], matrix.astype(np.float32)


def central(ids: np.ndarray, matrix: np.ndarray) -> Center:
    def center(members: np.ndarray) -> int:
        to_mean = ((matrix[members] - matrix[members].mean(axis=0)) ** 2).sum(axis=1)
        nearest = members[np.isclose(to_mean, to_mean.min(), rtol=0, atol=1e-15)]
        return int(nearest[ids[nearest].argmin()])

    return center


def forest_of(ids: np.ndarray, matrix: np.ndarray) -> list[tuple[int, int, float]]:
    """All edges, found once for the same data."""
    key = ids.tobytes(), matrix.astype(np.float64).tobytes()
    if key not in _FORESTS:
        _FORESTS[key] = brute_force_forest(ids, matrix, REACH)
    return _FORESTS[key]


def by_the_book(
    ids: np.ndarray, matrix: np.ndarray, threshold: float, bound: float, center: Center | None = None
) -> dict[int, int]:
    """For every id that of the image that stands for it."""
    matrix = matrix.astype(np.float64)
    center = center or central(ids, matrix)
    place = {int(name): number for number, name in enumerate(ids)}
    edges = [(place[a], place[b]) for a, b, d in forest_of(ids, matrix) if d <= np.float32(threshold)]
    found: dict[int, int] = {}
    left = [(np.arange(len(ids)), edges)]
    while left:
        members, edges = left.pop()
        stands = center(members)
        reach = cdist(matrix[members], matrix[[stands]]).astype(np.float32).max()
        parts = parted(members, edges)
        if len(parts) == 1 and reach <= np.float32(bound):
            found |= {int(ids[member]): int(ids[stands]) for member in members}
        else:
            left += parts if len(parts) > 1 else parted(members, edges[:-1])
    return found


def parted(members: np.ndarray, edges: list[tuple[int, int]]) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """The components, each with its edges in their order."""
    label = {int(member): int(member) for member in members}
    for a, b in edges:
        old, new = label[b], label[a]
        label = {member: new if named == old else named for member, named in label.items()}
    return [
        (
            np.array([member for member in members if label[int(member)] == named]),
            [edge for edge in edges if label[edge[0]] == named],
        )
        for named in sorted(set(label.values()))
    ]


def balance(folder: Path, ids: np.ndarray, matrix: np.ndarray, **options: Any) -> tuple[BalanceReport, dict[int, int]]:
    """The report, and for each id that of the image that stands for it."""
    embeddings = options.pop("embeddings", None) or write_embeddings(folder / "embeddings.parquet", ids, matrix)
    columns = [np.array(column) for column in zip(*forest_of(ids, matrix))]
    forest_schema = schema.NEAR_DUPLICATES.with_metadata({"max_distance": str(REACH)})
    columns[2] = columns[2].astype(np.float32)
    pq.write_table(pa.Table.from_arrays(columns, schema=forest_schema), folder / "forest.parquet")
    report = semantic_balance(embeddings, folder / "forest.parquet", folder, rule="bounded", **options)
    rows = pq.read_table(folder / "balance_groups.parquet").to_pylist()
    kept = {row["sample_id"] for row in rows if row["kept"]}
    assert {row["group_id"] for row in rows} <= kept and report.kept == len(kept)
    return report, {row["sample_id"]: row["group_id"] for row in rows}


@pytest.mark.parametrize("make", [groups, spheres, lattice])
@pytest.mark.parametrize("seed", range(2))
def test_equals_cutting_by_the_book(tmp_path: Path, make: Data, seed: int) -> None:
    ids, matrix = make(seed)
    for threshold, bound in [(0.3, None), (0.6, 0.25), (0.2, 0.4)]:
        report, found = balance(tmp_path, ids, matrix, threshold=threshold, max_distance_to_center=bound)
        assert found == by_the_book(ids, matrix, threshold, bound or threshold)
        assert report.max_distance_to_center <= np.float32(bound or threshold)
        assert report.removed_beyond_threshold == 0 or (bound or 0) > threshold


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_it_is_what_scipys_tree_says(seed: int) -> None:
    """The oracle itself, against scipy's single linkage cut from the root down."""
    ids, matrix = spheres(seed, rows=60)
    ids, matrix = ids[: len(np.unique(matrix, axis=0))], np.unique(matrix, axis=0).astype(np.float64)
    center = central(ids, matrix)
    found: dict[int, int] = {}
    left = [to_tree(linkage(matrix, "single"))]
    while left:
        node = left.pop()
        members = np.sort(node.pre_order())
        stands = center(members)
        reach = cdist(matrix[members], matrix[[stands]]).astype(np.float32).max()
        if node.dist <= np.float32(0.5) and reach <= np.float32(0.3):
            found |= {int(ids[member]): int(ids[stands]) for member in members}
        else:
            left += [node.left, node.right]
    assert found == by_the_book(ids, matrix, 0.5, 0.3)


def test_order_and_division_do_not_matter(tmp_path: Path) -> None:
    ids, matrix = spheres(5)
    _, found = balance(tmp_path, ids, matrix, threshold=0.3)
    order = np.random.default_rng(0).permutation(len(ids))
    parts = [write_embeddings(tmp_path / f"{n}.parquet", ids[order][n::3], matrix[order][n::3]) for n in range(3)]
    assert balance(tmp_path, ids[order], matrix[order], threshold=0.3, embeddings=parts)[1] == found
    # The bound that none is given for is the threshold.
    assert balance(tmp_path, ids, matrix, threshold=0.3, max_distance_to_center=0.3)[1] == found


@pytest.mark.parametrize("bound", [None, 0.2])
def test_groups_only_grow_and_the_curve_is_exact(tmp_path: Path, bound: float | None) -> None:
    """At every threshold of the curve; a share is reached by the smallest of all distances that there are."""
    ids, matrix = spheres(6, rows=60)
    report, _ = balance(tmp_path, ids, matrix, threshold=0.3, max_distance_to_center=bound)
    before: dict[int, int] = {}
    for row in report.sweep[1:]:
        found = by_the_book(ids, matrix, row["threshold"], bound or row["threshold"])
        assert row["removed"] == len(ids) - len(set(found.values()))
        joined = {(found[a], before[a]) for a in before}
        assert len(joined) == len(set(before.values()))
        before = found

    def removed(threshold: float) -> int:
        return len(ids) - len(set(by_the_book(ids, matrix, threshold, bound or threshold).values()))

    target = (report.sweep[40]["removed"] - 1) / len(ids)
    solved, _ = balance(tmp_path, ids, matrix, target_removal=target, max_distance_to_center=bound)
    assert solved.threshold in pdist(matrix.astype(np.float64)).astype(np.float32).astype(np.float64)
    assert solved.removed == removed(solved.threshold) >= target * len(ids)
    assert removed(float(np.nextafter(np.float32(solved.threshold), np.float32(0)))) < target * len(ids)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    # Wide, so that sums of squares in float32 would differ from those in float64.
    return make_world(tmp_path_factory.mktemp("world"), *planted(3, groups=15, width=300), seed=3)


def test_the_image_that_an_order_elects_is_the_one_that_the_bound_is_about(world: World) -> None:
    places = {
        pair["image_id"]: number
        for number, pair in enumerate(sorted(world.pairs, key=lambda pair: (-pair["width"], pair["image_id"])))
    }
    place = np.array([places[int(name)] for name in world.ids])
    report, tables = world.balance(rule="bounded", threshold=0.4, keep_by=["width DESC"], captions="group")
    found = {row["image_id"]: row["group_id"] for row in tables["balance_groups"]}
    elected = by_the_book(world.ids, world.matrix, 0.4, 0.4, lambda members: int(members[place[members].argmin()]))
    assert found == elected != by_the_book(world.ids, world.matrix, 0.4, 0.4)
    assert report.removed_beyond_threshold == 0
    # A threshold that is solved is the distance of an image, to the last bit.
    for target in (0.2, 0.3, 0.4):
        solved, tables = world.balance(rule="bounded", target_removal=target, keep_by=["width DESC"])
        reached = [row["distance_to_center"] for row in tables["balance_groups"]]
        ends = [[world.vectors[row[name]] for name in ("image_id", "group_id")] for row in tables["balance_groups"]]
        assert reached == [float(np.float32(np.sqrt(((a - b) ** 2).sum()))) for a, b in ends]
        assert max(reached) <= solved.threshold and solved.removed_beyond_threshold == 0


def test_several_of_a_group_stay(tmp_path: Path) -> None:
    ids, matrix = spheres(7)
    report, found = balance(tmp_path, ids, matrix, target_removal=0.2, keep_per_group=2)
    assert found == by_the_book(ids, matrix, report.threshold, report.threshold)
    removed = np.maximum(np.unique(list(found.values()), return_counts=True)[1] - 2, 0).sum()
    assert report.removed == removed >= 0.2 * len(ids)


def test_images_that_are_not_used_do_not_count(world: World, tmp_path: Path) -> None:
    """Filtered ones are as if they had never been there; a blocked one still links, but nothing is far for its sake."""
    where = "width > 100"
    wide = {pair["image_id"] for pair in world.pairs if pair["width"] > 100}
    left = np.isin(world.ids, list(wide))
    _, tables = world.balance(rule="bounded", threshold=0.4, where=where)
    found = {row["image_id"]: row["group_id"] for row in tables["balance_groups"]}
    assert found == by_the_book(world.ids[left], world.matrix[left], 0.4, 0.4)
    listed = tmp_path / "blocked.txt"
    listed.write_text("\n".join(str(name) for name in world.ids[~left]))
    report, _ = world.balance(rule="bounded", threshold=0.4, blocklist=[listed])
    assert report.max_distance_to_center <= 0.4 and report.removed >= len(wide) - len(set(found.values()))


def test_a_share_that_the_bound_forbids_is_refused(tmp_path: Path) -> None:
    ids, matrix = spheres(8)
    with pytest.raises(ConfigError, match=r"out of reach.*or allow a larger max_distance_to_center than 0.01"):
        balance(tmp_path, ids, matrix, target_removal=0.9, max_distance_to_center=0.01)

"""Which members of a group stay, against all pairs in float64."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from pipeline.core.errors import ConfigError
from tests.pipeline.balance.test_balance import brute_force
from tests.pipeline.balance.world import World, planted_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return planted_world(tmp_path_factory.mktemp("world"))


def groups_of(world: World, threshold: float) -> list[set[int]]:
    """All groups, by brute force."""
    found = defaultdict(set)
    for image_id, center in brute_force(world.ids, world.matrix, threshold).items():
        found[center].add(image_id)
    return list(found.values())


def kept(tables: dict[str, list[dict[str, Any]]]) -> set[int]:
    return {row["image_id"] for row in tables["balance_groups"] if row["kept"]}


# How DuckDB sorts by these terms: nulls last.
ORDERS: dict[tuple[str, ...], Any] = {
    ("width * height DESC", "image_text_similarity DESC"): lambda pair: (
        -pair["width"] * pair["height"],
        -pair["image_text_similarity"],
    ),
    ("score DESC NULLS LAST",): lambda pair: (pair["score"] is None, -(pair["score"] or 0)),
    ("lang", "score"): lambda pair: (pair["lang"], pair["score"] is None, pair["score"] or 0),
}


@pytest.mark.parametrize("terms", ORDERS)
@pytest.mark.parametrize("keep_per_group", [1, 2])
def test_the_first_by_an_order_stay(world: World, terms: tuple[str, ...], keep_per_group: int) -> None:
    """Of an image with several captions the one that comes first counts."""
    first = {
        image_id: min((*ORDERS[terms](pair), image_id, pair["sample_id"]) for pair in world.of(image_id))
        for image_id in world.ids.tolist()
    }
    report, tables = world.balance(threshold=0.3, keep_by=terms, keep_per_group=keep_per_group)
    ordered = [sorted(group, key=lambda image_id: first[image_id]) for group in groups_of(world, 0.3)]
    assert kept(tables) == {image_id for group in ordered for image_id in group[:keep_per_group]}
    stands_for = {image_id: group[0] for group in ordered for image_id in group}
    assert {row["image_id"]: row["group_id"] for row in tables["balance_groups"]} == stands_for
    for row in tables["balance_groups"]:
        distance = np.linalg.norm(world.vectors[row["image_id"]] - world.vectors[row["group_id"]])
        assert row["distance_to_center"] == pytest.approx(distance, abs=1e-6)
    assert report.kept == len(kept(tables))


@pytest.mark.parametrize("keep_per_group", [2, 3])
def test_so_many_of_a_group_stay_and_the_central_ones_first(world: World, keep_per_group: int) -> None:
    _, tables = world.balance(threshold=0.3, keep_per_group=keep_per_group)
    centers = brute_force(world.ids, world.matrix, 0.3)
    assert {row["image_id"]: row["group_id"] for row in tables["balance_groups"]} == centers
    stay = kept(tables)
    for group in groups_of(world, 0.3):
        center = centers[next(iter(group))]
        assert center in stay and len(group & stay) == min(len(group), keep_per_group)
        distance = {id_: np.linalg.norm(world.vectors[id_] - world.vectors[center]) for id_ in group}
        farthest = max(distance[id_] for id_ in group & stay)
        assert all(distance[id_] >= farthest - 1e-6 for id_ in group - stay)
    for row in tables["removed_pairs"]:
        assert row["kept_image_id"] == centers[row["image_id"]]


def removed_at(distance: np.ndarray, threshold: float, keep_per_group: int) -> int:
    labels = connected_components(distance <= np.float32(threshold))[1]
    return int(np.maximum(np.bincount(labels) - keep_per_group, 0).sum())


@pytest.mark.parametrize(("keep_per_group", "target"), [(2, 0.1), (2, 0.35), (3, 0.2)])
def test_a_share_is_reached_by_the_smallest_threshold(world: World, keep_per_group: int, target: float) -> None:
    """Of all distances there are, tried one by one."""
    distance = squareform(pdist(world.matrix.astype(np.float64))).astype(np.float32)
    for smallest in np.unique(distance[distance <= np.float32(0.6)]):
        if removed_at(distance, smallest, keep_per_group) >= target * len(world.ids):
            break
    report, tables = world.balance(target_removal=target, keep_per_group=keep_per_group)
    assert report.threshold == pytest.approx(float(smallest), abs=1e-6)
    assert report.removed == removed_at(distance, smallest, keep_per_group) == len(world.ids) - len(kept(tables))
    for row in report.sweep[::20]:
        assert row["removed"] == removed_at(distance, row["threshold"], keep_per_group)


def test_an_order_that_is_none_is_refused(world: World) -> None:
    for terms, message in [(["no_such_column"], "no_such_column"), (["score DESC; DROP TABLE x"], "keep_by")]:
        with pytest.raises(ConfigError, match=message):
            world.balance(threshold=0.3, keep_by=terms)
    with pytest.raises(
        ConfigError, match="keep_per_group 2 is for rules connected_components and bounded, not semdedup"
    ):
        world.balance(threshold=0.3, keep_per_group=2, rule="semdedup")
    with pytest.raises(ConfigError, match="keep_by has no meaning with rule random"):
        world.balance(threshold=0.3, keep_by=["score"], rule="random")

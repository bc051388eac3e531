"""Pairs that are left out before the balance: which, and what becomes of the images that they are of."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.errors import ConfigError
from tests.oracles import unit
from tests.pipeline.balance.test_balance import brute_force
from tests.pipeline.balance.world import World, make_world, planted_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return planted_world(tmp_path_factory.mktemp("world"), seed=2)


def chain(folder: Path) -> World:
    """Images 1, 2 and 3 in a row, of which only neighbors are near-duplicates, and 4 that is like none."""
    angle = np.array([0, 0.25, 0.5])
    matrix = np.zeros((4, 8))
    matrix[:3, 0], matrix[:3, 1], matrix[3, 2] = np.cos(angle), np.sin(angle), 1
    return make_world(folder, np.arange(1, 5), unit(matrix).astype(np.float16), seed=3)


CONDITIONS = [
    "width >= 200 AND caption <> 'text 3'",
    # Null for some, which is not true.
    "score > 0.4",
    "image_text_similarity > 0 OR lang = 'de'",
    "url LIKE '%7.jpg' OR height IN (100, 300)",
    "status = 'success' AND NOT (lang = 'en' AND score < 0.5)",
]


@pytest.mark.parametrize("where", CONDITIONS)
def test_pairs_for_which_it_is_not_true_are_listed(world: World, where: str) -> None:
    """As DuckDB says over the same tables, and the rest is balanced as if no more were there."""
    tables = {name: f"'{world.folder}/{name}.parquet'" for name in ("pairs", "images", "captions", "attributes")}
    text = (
        f"SELECT sample_id FROM {tables['pairs']} "
        f"JOIN (SELECT * EXCLUDE (url) FROM {tables['images']}) USING (image_id) "
        f"JOIN (SELECT sample_id, image_text_similarity FROM {tables['captions']}) USING (sample_id) "
        f"JOIN (SELECT * EXCLUDE (image_id) FROM {tables['attributes']}) USING (sample_id) WHERE ({where}) IS NOT TRUE"
    )
    expected = {sample_id for (sample_id,) in duckdb.sql(text).fetchall()}
    report, found = world.balance(threshold=0.3, where=where)
    assert {row["sample_id"] for row in found["filtered_pairs"]} == expected
    assert {row["reason"] for row in found["filtered_pairs"]} == {f"where: {where}"}
    assert report.filtered_pairs == len(expected) == len(found["filtered_pairs"]) > 0
    left = np.array([any(pair["sample_id"] not in expected for pair in world.of(id_)) for id_ in world.ids.tolist()])
    assert 0 < report.filtered == len(world.ids) - left.sum()
    centers = brute_force(world.ids[left], world.matrix[left], 0.3)
    assert {row["image_id"]: row["group_id"] for row in found["balance_groups"]} == centers


def test_an_image_stays_with_the_captions_that_are_left(tmp_path: Path) -> None:
    world = chain(tmp_path)
    several = [id_ for id_ in world.ids.tolist() if len(world.of(id_)) > 1]
    assert several
    gone = world.of(several[0])[0]
    condition = f"NOT (image_id = {gone['image_id']} AND caption = '{gone['caption']}')"
    report, found = world.balance(threshold=0.1, where=condition)
    assert [(row["sample_id"], row["image_id"]) for row in found["filtered_pairs"]] == [
        (gone["sample_id"], gone["image_id"])
    ]
    assert (report.filtered, report.filtered_pairs, report.kept) == (0, 1, 4)
    left = {row["sample_id"] for row in found["balanced_pairs"] if row["image_id"] == gone["image_id"]}
    assert left == {pair["sample_id"] for pair in world.of(gone["image_id"])[1:]}


def test_images_that_were_joined_through_a_filtered_one_are_not_joined(tmp_path: Path) -> None:
    world = chain(tmp_path)
    assert world.balance(threshold=0.3)[0].kept == 2
    report, found = world.balance(threshold=0.3, where="image_id <> 2")
    assert {row["image_id"]: row["group_id"] for row in found["balance_groups"]} == {1: 1, 3: 3, 4: 4}
    assert (report.kept, report.removed, report.filtered) == (3, 0, 1)
    # At a threshold at which they are neighbors themselves they are found, though the forest had no edge for it.
    report, found = world.balance(threshold=0.55, where="image_id <> 2")
    assert (report.kept, report.removed, report.filtered) == (2, 1, 1)


def test_images_of_evaluation_sets_are_filtered_with_all_captions(tmp_path: Path) -> None:
    world = chain(tmp_path)
    rows = [("b", 2), ("a", 2), ("a", 2), ("a", 4)]
    leaks = [
        {"dataset": name, "split": "test", "key": str(number), "image_id": image_id, "distance": 0.1}
        for number, (name, image_id) in enumerate(rows)
    ]
    path = tmp_path / "leaks.parquet"
    pq.write_table(pa.Table.from_pylist(leaks, schema=schema.EVALUATION_LEAKS), path)
    report, found = world.balance(threshold=0.3, leaks=[path], where=f"caption <> '{world.of(4)[0]['caption']}'")
    # What the condition removes is said to be removed by it.
    reasons = {row["sample_id"]: row["reason"] for row in found["filtered_pairs"] if row["reason"][:5] != "where"}
    expected = {2: "evaluation leak: a, b", 4: "evaluation leak: a"}
    same = {pair["sample_id"] for pair in world.pairs if pair["caption"] == world.of(4)[0]["caption"]}
    assert reasons == {
        pair["sample_id"]: expected[id_] for id_ in (2, 4) for pair in world.of(id_) if pair["sample_id"] not in same
    }
    assert report.filtered >= 2 and not {row["image_id"] for row in found["balance_groups"]} & {2, 4}
    with pytest.raises(ConfigError, match=r"balance\.decontaminate: nothing is left, every pair is near"):
        every = [{**leaks[0], "image_id": id_} for id_ in world.ids.tolist()]
        pq.write_table(pa.Table.from_pylist(every, schema=schema.EVALUATION_LEAKS), path)
        world.balance(threshold=0.3, leaks=[path])


@pytest.mark.parametrize("others", ["true", "image_id <> 4"])
def test_an_image_that_is_blocked_and_filtered_counts_as_blocked(tmp_path: Path, others: str) -> None:
    """It links its neighbors, as blocked images do, whatever else is filtered."""
    world = chain(tmp_path)
    (tmp_path / "list.txt").write_text("2")
    report, found = world.balance(threshold=0.3, where=f"image_id <> 2 AND {others}", blocklist=[tmp_path / "list.txt"])
    assert {row["image_id"] for row in found["blocked_pairs"]} == {2}
    assert {row["image_id"] for row in found["filtered_pairs"]} == (set() if others == "true" else {4})
    assert len({row["group_id"] for row in found["balance_groups"] if row["image_id"] in (1, 3)}) == 1
    assert (report.blocked, report.removed, report.filtered) == (1, 1, 0 if others == "true" else 1)


@pytest.mark.parametrize("rule", ["semdedup", "random"])
def test_other_rules_see_no_filtered_image(world: World, rule: str) -> None:
    report, found = world.balance(threshold=0.3, where="width > 100", rule=rule, cells=2, cell_iterations=3)
    wide = {pair["image_id"] for pair in world.pairs if pair["width"] > 100}
    assert {row["image_id"] for row in found["balance_groups"]} == wide
    assert report.filtered == len(world.ids) - len(wide)
    assert {row["kept_image_id"] for row in found["removed_pairs"]} <= wide


def test_a_condition_that_is_none_or_leaves_nothing_is_refused(world: World) -> None:
    for where, message in [
        ("width > 10000", "balance.where: nothing is left for which this is true: width > 10000"),
        ("no_such > 1", "no_such"),
        ("width", "BOOLEAN"),
    ]:
        with pytest.raises(ConfigError, match=message):
            world.balance(threshold=0.3, where=where)

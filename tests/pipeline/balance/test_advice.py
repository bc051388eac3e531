"""Advice on the threshold against float64 brute force, and where the proposal stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.balance.advice import Advice, advise_threshold, stand_ins
from pipeline.balance.config import BalanceConfig
from pipeline.balance.facts import PairTables
from pipeline.balance.semantic_balance import semantic_balance
from pipeline.core.errors import ConfigError
from pipeline.neighbors.search import near_duplicate_forest
from tests.oracles import brute_force_forest, unit, write_embeddings
from tests.pipeline.balance.test_balance import brute_force, planted
from tests.pipeline.balance.world import MAX_DISTANCE, World, planted_world


def merges_by_the_book(edges: list[tuple[int, int, float]], ids: np.ndarray) -> list[tuple[float, int, int]]:
    """For each edge its distance, the smaller of the two groups that it joins, and the largest group after it."""
    group_of = {id_: {id_} for id_ in ids.tolist()}
    found, largest = [], 1
    for a, b, distance in edges:
        first, second = group_of[a], group_of[b]
        joined = first | second
        for member in joined:
            group_of[member] = joined
        largest = max(largest, len(joined))
        found.append((distance, min(len(first), len(second)), largest))
    return found


def advise(folder: Path, ids: np.ndarray, matrix: np.ndarray, **options: Any) -> Advice:
    folder.mkdir(parents=True, exist_ok=True)
    columns = options.pop("columns", {})
    embeddings = write_embeddings(folder / "embeddings.parquet", ids, matrix, **columns)
    near_duplicate_forest(embeddings, folder / "forest.parquet", max_distance=MAX_DISTANCE)
    return advise_threshold(embeddings, folder / "forest.parquet", **options)


def advise_world(world: World, **options: Any) -> Advice:
    named = {name: [world.folder / f"{name}.parquet"] for name in ("images", "pairs", "captions")}
    return advise_threshold(
        world.folder / "embeddings.parquet",
        world.folder / "forest.parquet",
        id_column="image_id",
        tables=PairTables(**named),
        **options,
    )


@pytest.mark.parametrize("seed", range(2))
def test_every_column_is_that_of_brute_force(tmp_path: Path, seed: int) -> None:
    world = planted_world(tmp_path, seed)
    advice = advise_world(world, pairs=3)
    edges = brute_force_forest(world.ids, world.matrix, MAX_DISTANCE)
    book, vectors, images = merges_by_the_book(edges, world.ids), world.vectors, len(world.ids)
    first = {id_: min(world.of(id_), key=lambda pair: pair["sample_id"])["caption"] for id_ in vectors}
    assert (advice.images, advice.max_distance) == (images, MAX_DISTANCE) and len(advice.rows) >= 8
    before = -1.0
    for row in advice.rows:
        t = np.float32(row.threshold)
        taken = [entry for entry in book if entry[0] <= t]
        assert (row.removed, row.kept) == (len(taken), images - len(taken))
        assert row.removed_share == len(taken) / images
        assert row.largest_group == max((largest for *_, largest in taken), default=1)
        assert row.largest_group_share == row.largest_group / images
        assert row.largest_merge == max((smaller for d, smaller, _ in taken if d > np.float32(before)), default=0)
        center_of = brute_force(world.ids, world.matrix, row.threshold)
        gone = {id_: center for id_, center in center_of.items() if id_ != center}
        far = [np.float32(np.linalg.norm(vectors[id_] - vectors[center])) > t for id_, center in gone.items()]
        assert row.beyond_share == (pytest.approx(np.mean(far)) if gone else None)
        for value, wanted in ((row.similarity_removed, True), (row.similarity_kept, False)):
            similarities = [
                pair["image_text_similarity"] for pair in world.pairs if (pair["image_id"] in gone) == wanted
            ]
            assert value == (pytest.approx(np.mean(similarities), abs=1e-6) if similarities else None)
        assert not row.sampled
        for found, expected in ((row.under, edges[: len(taken)][::-1][:3]), (row.over, edges[len(taken) :][:3])):
            assert [(pair.image_a, pair.image_b, pair.distance) for pair in found] == expected
            assert [(pair.caption_a, pair.caption_b) for pair in found] == [
                (first[a], first[b]) for a, b, _ in expected
            ]
        before = row.threshold
    assert any(row.beyond_share for row in advice.rows)


def test_figures_are_those_of_the_balance(tmp_path: Path) -> None:
    world = planted_world(tmp_path, 5)
    for row in advise_world(world, thresholds=[0.3, 0.1, 0.5]).rows:
        report, _ = world.balance(threshold=row.threshold)
        assert (report.removed, report.kept, report.largest_group) == (row.removed, row.kept, row.largest_group)
        assert report.removed_beyond_threshold == pytest.approx((row.beyond_share or 0) * row.removed)
        assert report.similarity_kept == pytest.approx(row.similarity_kept, abs=1e-6)
        assert report.similarity_removed == pytest.approx(row.similarity_removed, abs=1e-6)


def copies_and_chain(*, step: float, links: int, groups: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Groups of four within about 0.03 of one another, far from each other, and a row of images ``step`` apart."""
    rng = np.random.default_rng(0)
    base = np.repeat(unit(rng.normal(size=(groups, 62))), 4, axis=0)
    copies = unit(base + 0.002 * rng.normal(size=base.shape))
    angle = np.arange(links) * 2 * np.arcsin(step / 2)
    matrix = np.zeros((len(copies) + links, 64))
    matrix[: len(copies), 2:] = copies
    matrix[len(copies) :, 0], matrix[len(copies) :, 1] = np.cos(angle), np.sin(angle)
    return rng.permutation(len(matrix)), matrix.astype(np.float32)


def test_the_proposal_stops_before_a_chain(tmp_path: Path) -> None:
    ids, matrix = copies_and_chain(step=0.2137, links=29)
    advice = advise(tmp_path, ids, matrix)
    # All copies go, and nothing of the chain.
    (row,) = [row for row in advice.rows if row.threshold == advice.proposal]
    assert row.removed == 120 and row.largest_group == 4 and row.threshold < 0.2137
    assert "farther than that" in advice.reason and "before groups chain" in advice.reason
    chained = next(row for row in advice.rows if row.largest_group >= 29)
    assert chained.beyond_share is not None and chained.beyond_share > advice.tolerance
    # The step in which it begins was halved three times.
    assert chained.threshold - max(row.threshold for row in advice.rows if row.largest_group == 4) < 0.6 / 8 / 8 + 1e-3
    assert advice.settings is not None
    settings = BalanceConfig(**yaml.safe_load(advice.settings)["balance"])
    assert (settings.threshold, settings.target_removal) == (advice.proposal, None)
    # A tolerance that the chain does not exceed lets it pass.
    generous = advise(tmp_path, ids, matrix, tolerance=0.5)
    assert generous.proposal is not None and generous.proposal >= 0.214 and "do not chain" in generous.reason


def test_a_chain_alone_gives_no_proposal(tmp_path: Path) -> None:
    for links in (29, 11):
        ids, matrix = copies_and_chain(step=0.2137, links=links, groups=0)
        advice = advise(tmp_path, ids, matrix)
        assert advice.proposal is None and advice.settings is None
        assert advice.reason.startswith("no threshold is free of chaining: 0.2")


def test_large_groups_that_meet_are_a_sign(tmp_path: Path) -> None:
    """Two crowds whose members are all within the larger threshold of either, so that none is beyond it."""
    matrix = np.zeros((560, 502))
    matrix[:60, 0], matrix[60:, 2:] = 1, np.eye(500)
    angle = 2 * np.arcsin(0.3 / 2)
    matrix[30:60, 0], matrix[30:60, 1] = np.cos(angle), np.sin(angle)
    advice = advise(tmp_path, np.arange(560), matrix.astype(np.float32), thresholds=[0.1, 0.35])
    assert [row.largest_merge for row in advice.rows] == [1, 30]
    assert [row.beyond_share for row in advice.rows] == [0, 0]
    assert advice.proposal == 0.1
    assert "at 0.35, a single pair has joined 30 images (5.4% of all)" in advice.reason


def one_hot(count: int) -> np.ndarray:
    return np.eye(count, 40, dtype=np.float32)


@pytest.mark.parametrize(
    ("matrix", "removed", "proposed"),
    [
        (one_hot(30), 0, None),
        (np.repeat(one_hot(1), 30, axis=0), 29, 0.075),
        (one_hot(1), 0, None),
        (np.concatenate([one_hot(30), one_hot(30)]), 30, 0.075),
    ],
    ids=["no edge", "all identical", "one image", "pairs of copies"],
)
def test_degenerate_data(tmp_path: Path, matrix: np.ndarray, removed: int, proposed: float | None) -> None:
    advice = advise(tmp_path, np.arange(len(matrix)), matrix)
    assert len(advice.rows) == 8 and {row.removed for row in advice.rows} == {removed}
    assert {row.beyond_share for row in advice.rows} == {0.0 if removed else None}
    assert {row.largest_merge for row in advice.rows[1:]} == {0}
    assert all(row.similarity_kept is None and not row.over for row in advice.rows)
    assert advice.proposal == proposed
    assert ("nothing to balance" if proposed is None else "removes no image more") in advice.reason


def test_thresholds_that_remove_nothing(tmp_path: Path) -> None:
    ids, matrix = copies_and_chain(step=0.2137, links=5)
    advice = advise(tmp_path, ids, matrix, thresholds=[1e-4, 2e-4])
    assert advice.proposal is None and "up to 0.0002 removes an image" in advice.reason
    assert [len(row.over) for row in advice.rows] == [4, 4] and not any(row.under for row in advice.rows)


def test_a_sample_of_groups_is_near_to_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, matrix = planted(3, groups=500)
    text = unit(np.random.default_rng(1).normal(size=matrix.shape) + 3 * matrix).astype(np.float32)
    columns = {"text_embedding": text.tolist()}
    thresholds = [0.05, 0.2, 0.45]
    exact = advise(tmp_path, ids, matrix, thresholds=thresholds, columns=columns)
    for members in (1000, 4):
        monkeypatch.setattr(stand_ins, "_MEMBERS", members)
        files = (tmp_path / "embeddings.parquet", tmp_path / "forest.parquet")
        sampled = advise_threshold(*files, thresholds=thresholds, exact_rows=100)
        assert sampled == advise_threshold(*files, thresholds=thresholds, exact_rows=100)
        for row, whole in zip(sampled.rows, exact.rows):
            assert row.sampled and not whole.sampled
            assert (row.removed, row.largest_group, row.under) == (whole.removed, whole.largest_group, whole.under)
            assert row.beyond_share == pytest.approx(whole.beyond_share, abs=0.05)
            assert row.similarity_kept == pytest.approx(whole.similarity_kept, abs=0.02)
            assert row.similarity_removed == pytest.approx(whole.similarity_removed, abs=0.02)
    assert any(row.beyond_share for row in exact.rows)
    assert {row.sampled for row in advise_threshold(*files, exact_rows=10**4).rows} == {False}


def test_draws_have_equal_chances() -> None:
    """Groups of 1 to 400 members: what weights add up to is the number of images, on average and by size."""
    sizes = np.r_[np.full(300, 2), np.full(20, 50), 400]
    component = np.repeat(np.arange(len(sizes)), sizes)
    totals = []
    for seed in range(30):
        looked = stand_ins.choose(np.arange(len(component)), component, exact_rows=10, seed=seed)
        assert looked.sampled and looked.weight.sum() == pytest.approx(len(component))
        size = sizes[looked.component]
        totals.append([looked.weight[size == wanted].sum() for wanted in (2, 50, 400)])
    assert np.mean(totals, axis=0) == pytest.approx([600, 1000, 400], rel=0.03)


def test_files_may_say_their_captions(tmp_path: Path) -> None:
    ids, matrix = copies_and_chain(step=0.2137, links=5, groups=2)
    columns = {"caption": [f"text {id_}" for id_ in ids]}
    row = advise(tmp_path, ids, matrix, thresholds=[0.1], pairs=1, columns=columns).rows[0]
    assert all(pair.caption_a == f"text {pair.image_a}" for pair in (*row.under, *row.over))
    assert advise(tmp_path, ids, matrix, thresholds=[0.1]).rows[0].under[0].caption_a is None


def test_impossible_settings(tmp_path: Path) -> None:
    ids, matrix = copies_and_chain(step=0.2137, links=5, groups=2)
    for options, text in (
        ({"tolerance": 1.0}, "tolerance must lie in"),
        ({"thresholds": [0.1, 0.7]}, "beyond the forest's max_distance"),
        ({"thresholds": [0.0]}, "threshold must lie in"),
    ):
        with pytest.raises(ConfigError, match=text):
            advise(tmp_path, ids, matrix, **options)


def test_the_proposal_is_one_that_the_balance_takes(tmp_path: Path) -> None:
    ids, matrix = copies_and_chain(step=0.2137, links=29)
    advice = advise(tmp_path, ids, matrix)
    report = semantic_balance(
        tmp_path / "embeddings.parquet", tmp_path / "forest.parquet", tmp_path / "out", threshold=advice.proposal
    )
    assert (report.removed, report.removed_beyond_threshold) == (120, 0)

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from pipeline.balance.semantic_balance import BalanceReport, semantic_balance, threshold_sweep
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.core.query import QueryConfig
from pipeline.neighbors.search import near_duplicate_forest


def planted(seed: int, groups: int = 120, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Ids and unit float16 vectors: singletons, groups of up to five, exact repeats, and a chain."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(groups):
        center = rng.normal(size=width)
        spread = rng.choice([0.0, 0.02, 0.1])
        parts.append(center + spread * rng.normal(size=(rng.integers(1, 6), width)))
    angle = np.linspace(0, 1.5, 30)
    chain = np.zeros((30, width))
    chain[:, 0], chain[:, 1] = np.cos(angle), np.sin(angle)
    matrix = np.concatenate([*parts, chain])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    ids = rng.choice(2**40, len(matrix), replace=False) - 2**39
    return ids, matrix.astype(np.float16)


def write(path: Path, ids: np.ndarray, matrix: np.ndarray) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    pq.write_table(pa.table({"sample_id": ids, "image_embedding": vectors}), path)
    return path


def balance(folder: Path, ids: np.ndarray, matrix: np.ndarray, **rule: float) -> tuple[BalanceReport, list[dict]]:
    folder.mkdir(parents=True, exist_ok=True)
    embeddings = write(folder / "embeddings.parquet", ids, matrix)
    near_duplicate_forest(embeddings, folder / "forest.parquet", max_distance=0.6, tile_rows=64)
    report = semantic_balance(embeddings, folder / "forest.parquet", folder, **rule)
    return report, pq.read_table(folder / "balance_groups.parquet").to_pylist()


def brute_force(
    ids: np.ndarray, matrix: np.ndarray, threshold: float, without: set[int] | None = None
) -> dict[int, int]:
    """For every id the center of its group, in float64 over all pairs; some may link others but not count."""
    matrix = matrix.astype(np.float64)
    distance = squareform(pdist(matrix)).astype(np.float32)
    labels = connected_components(distance <= np.float32(threshold))[1]
    center_of = {}
    for label in np.unique(labels):
        members = np.flatnonzero((labels == label) & ~np.isin(ids, list(without or ())))
        if not len(members):
            continue
        to_mean = ((matrix[members] - matrix[members].mean(axis=0)) ** 2).sum(axis=1)
        nearest = members[np.isclose(to_mean, to_mean.min(), rtol=0, atol=1e-15)]
        for member in members:
            center_of[int(ids[member])] = int(ids[nearest].min())
    return center_of


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.03, 0.1, 0.3, 0.6])
def test_equals_brute_force(tmp_path: Path, seed: int, threshold: float) -> None:
    ids, matrix = planted(seed)
    report, groups = balance(tmp_path, ids, matrix, threshold=threshold)
    expected = brute_force(ids, matrix, threshold)
    assert {row["sample_id"]: row["group_id"] for row in groups} == expected
    assert report.kept == len(set(expected.values()))
    assert report.kept + report.removed == report.samples == len(ids)


def test_one_survivor_per_group_and_removed_points_at_it(tmp_path: Path) -> None:
    ids, matrix = planted(9)
    _, groups = balance(tmp_path, ids, matrix, threshold=0.3)
    kept = {row["sample_id"] for row in groups if row["kept"]}
    assert {row["group_id"] for row in groups} == kept
    removed = pq.read_table(tmp_path / "removed_pairs.parquet").to_pylist()
    assert {row["sample_id"] for row in removed} | kept == set(ids.tolist())
    assert {row["kept_sample_id"] for row in removed} <= kept
    for row in groups:
        assert row["group_size"] == sum(other["group_id"] == row["group_id"] for other in groups)


def test_order_and_division_do_not_matter(tmp_path: Path) -> None:
    ids, matrix = planted(3)
    _, reference = balance(tmp_path / "a", ids, matrix, threshold=0.3)
    order = np.random.default_rng(0).permutation(len(ids))
    _, shuffled = balance(tmp_path / "b", ids[order], matrix[order], threshold=0.3)
    assert shuffled == reference
    parts = [write(tmp_path / f"{n}.parquet", ids[n::3], matrix[n::3]) for n in range(3)]
    near_duplicate_forest(parts, tmp_path / "forest.parquet", max_distance=0.6, tile_rows=37)
    semantic_balance(parts[::-1], tmp_path / "forest.parquet", tmp_path / "c", threshold=0.3)
    assert pq.read_table(tmp_path / "c" / "balance_groups.parquet").to_pylist() == reference


def test_sweep_counts_what_each_threshold_removes(tmp_path: Path) -> None:
    ids, matrix = planted(5)
    balance(tmp_path, ids, matrix, threshold=0.3)
    sweep = threshold_sweep(tmp_path / "forest.parquet", len(ids), QueryConfig(), max_distance=0.6, steps=12)
    for row in sweep.to_pylist()[1:]:
        assert row["kept"] == len(set(brute_force(ids, matrix, row["threshold"]).values())), row


def test_target_removal_is_solved_for(tmp_path: Path) -> None:
    ids, matrix = planted(6)
    report, _ = balance(tmp_path, ids, matrix, target_removal=0.437)
    assert report.removed / report.samples >= 0.437
    smaller = float(np.nextafter(np.float32(report.threshold), np.float32(0)))
    below, _ = balance(tmp_path, ids, matrix, threshold=smaller)
    assert below.removed / below.samples < 0.437


def test_members_far_from_the_center_are_released(tmp_path: Path) -> None:
    ids, matrix = planted(7)
    report, groups = balance(tmp_path, ids, matrix, threshold=0.3, max_distance_to_center=0.2)
    assert report.max_distance_to_center <= 0.2
    assert {row["group_id"] for row in groups} == {row["sample_id"] for row in groups if row["kept"]}
    assert report.kept > len(set(brute_force(ids, matrix, 0.3).values()))


@pytest.mark.parametrize("keep_per_group", [1, 2])
def test_captions_of_removed_images_go_to_the_one_that_stands_for_them(tmp_path: Path, keep_per_group: int) -> None:
    """Each text once for an image, its own first, then that of the smallest sample_id; filtered ones go nowhere."""
    from tests.pipeline.balance.world import planted_world

    world = planted_world(tmp_path, seed=4, groups=30)
    options = {"threshold": 0.3, "where": "lang = 'en' OR score > 0.5", "keep_per_group": keep_per_group}
    _, own = world.balance(**options)
    _, shared = world.balance(**options, captions="group")
    unchanged = ("balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs")
    assert {name: shared[name] for name in unchanged} == {name: own[name] for name in unchanged}
    texts = {pair["sample_id"]: pair for pair in world.pairs}
    expected = {(row["image_id"], row["caption"]): row["sample_id"] for row in own["balanced_pairs"]}
    for row in sorted(own["removed_pairs"], key=lambda row: row["sample_id"]):
        expected.setdefault((row["kept_image_id"], texts[row["sample_id"]]["caption"]), row["sample_id"])
    assert len(expected) > len(own["balanced_pairs"])
    found = {(row["image_id"], row["caption"]): row["sample_id"] for row in shared["balanced_pairs"]}
    assert found == expected and len(shared["balanced_pairs"]) == len(expected)
    for row in shared["balanced_pairs"]:
        cosine = world.vectors[row["image_id"]] @ texts[row["sample_id"]]["text"].astype(np.float64)
        assert row["image_text_similarity"] == pytest.approx(cosine, abs=1e-6)
        assert row["url"] == f"http://x/{row['image_id']}.jpg"


def test_captions_in_a_space_of_their_own_have_no_similarity(tmp_path: Path) -> None:
    from tests.pipeline.balance.world import planted_world

    world = planted_world(tmp_path, seed=4, groups=10)
    captions = pq.read_table(tmp_path / "captions.parquet")
    narrow = pa.array([vector[:5] for vector in captions["text_embedding"].to_pylist()], pa.list_(pa.float16(), 5))
    columns = {name: captions[name] for name in ("sample_id", "image_id")}
    columns |= {"text_embedding": narrow, "image_text_similarity": pa.nulls(len(narrow), pa.float32())}
    pq.write_table(pa.table(columns), tmp_path / "captions.parquet")
    report, found = world.balance(threshold=0.3, captions="group")
    assert len(found["balanced_pairs"]) + len(found["removed_pairs"]) > len(world.pairs)
    assert {row["image_text_similarity"] for row in found["balanced_pairs"]} == {None}
    assert report.similarity_kept is report.similarity_removed is None


def test_impossible_thresholds_are_refused(tmp_path: Path) -> None:
    ids, matrix = planted(8)
    for rule, message in [
        ({"threshold": 0.0}, r"threshold must lie in \(0, 2\)"),
        ({"threshold": 2.0}, r"threshold must lie in \(0, 2\)"),
        ({"threshold": 0.7}, "beyond the forest's max_distance 0.6"),
        ({"target_removal": 0.99}, "out of reach"),
        ({"threshold": 0.3, "target_removal": 0.4}, "either threshold or target_removal"),
        ({}, "either threshold or target_removal"),
    ]:
        with pytest.raises(ConfigError, match=message):
            balance(tmp_path, ids, matrix, **rule)
    with pytest.raises(ConfigError, match="max_distance must lie"):
        near_duplicate_forest(tmp_path / "embeddings.parquet", tmp_path / "f.parquet", max_distance=2)


def test_bad_embeddings_are_refused(tmp_path: Path) -> None:
    ids, matrix = planted(8)
    wide = matrix.astype(np.float32)
    nan, long = wide.copy(), wide.copy()
    nan[3, 0], long[5:8] = np.nan, long[5:8] * 2
    ragged = pa.table({"sample_id": [1, 2], "image_embedding": [[1.0], [0.6, 0.8]]})
    null = pa.table({"sample_id": [1, 2], "image_embedding": [[1.0, 0.0], None]})
    cases = {
        "1 of 412 vectors are not finite": write(tmp_path / "nan.parquet", ids, nan),
        f"3 of {len(ids)} vectors are not of unit length": write(tmp_path / "long.parquet", ids, long),
        "1 rows repeat a sample_id": write(tmp_path / "twice.parquet", np.r_[ids[1], ids[1:]], matrix),
        "mixed widths": _table(tmp_path / "ragged.parquet", ragged),
        "1 of 2 embeddings are null": _table(tmp_path / "null.parquet", null),
        r"no column \['image_embedding'\]": _table(tmp_path / "column.parquet", pa.table({"sample_id": [1]})),
        "without a row": write(tmp_path / "empty.parquet", ids[:0], matrix[:0]),
        "no Parquet file": tmp_path / "missing.parquet",
    }
    for message, path in cases.items():
        with pytest.raises(EmbeddingError, match=message):
            near_duplicate_forest(path, tmp_path / "forest.parquet", max_distance=0.5)


@pytest.mark.parametrize("type_", [np.float16, np.float32, np.float64])
def test_float_types_and_list_kinds_are_taken(tmp_path: Path, type_: type) -> None:
    matrix = np.eye(4, dtype=type_)[[0, 0, 1, 2]]
    table = pa.table({"sample_id": [1, 2, 3, 4], "image_embedding": pa.array(list(matrix))})
    report = near_duplicate_forest(_table(tmp_path / "e.parquet", table), tmp_path / "f.parquet", max_distance=0.5)
    assert (report.samples, report.distinct, report.edges) == (4, 3, 1)


def test_one_row(tmp_path: Path) -> None:
    report, groups = balance(tmp_path, np.array([7]), np.eye(2, dtype=np.float16)[:1], threshold=0.3)
    assert (report.kept, report.removed, groups[0]["group_id"]) == (1, 0, 7)


def _table(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path

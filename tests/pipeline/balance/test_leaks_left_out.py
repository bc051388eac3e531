"""Leaks in the balance: what is left out, and groups of the rest as if it had never been there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.balance.config import BalanceConfig
from pipeline.balance.facts import PairTables
from pipeline.balance.semantic_balance import BalanceReport, semantic_balance
from pipeline.core import schema
from pipeline.core.errors import ConfigError
from pipeline.neighbors import near_duplicate_forest
from tests.oracles import write_embeddings
from tests.pipeline.balance.test_balance import brute_force, planted


def tables(folder: Path, ids: np.ndarray, leaked: dict[int, list[str]]) -> PairTables:
    """Two pairs of every image, and a row for each evaluation set that it leaks into."""
    rows = [(image * 2 + number, image) for image in ids.tolist() for number in (0, 1)]
    columns = {"sample_id": [row[0] for row in rows], "image_id": [row[1] for row in rows]}
    made = {
        "images": pa.Table.from_pylist([{"image_id": id_, "status": "success"} for id_ in ids.tolist()], schema.IMAGES),
        "pairs": pa.table({**columns, "url": [""] * len(rows), "caption": [str(row[0]) for row in rows]}),
        "captions": pa.table(
            {
                **columns,
                "text_embedding": pa.array([[1.0] + [0.0] * 23] * len(rows), pa.list_(pa.float16(), 24)),
                "image_text_similarity": pa.array([0.5] * len(rows), pa.float32()),
            }
        ),
        "leaks": pa.Table.from_pylist(
            [
                {"dataset": name, "split": "test", "key": f"test/0.tar/{number}", "image_id": id_, "distance": 0.1}
                for id_, names in leaked.items()
                for number, name in enumerate(names)
            ],
            schema.EVALUATION_LEAKS,
        ),
    }
    for name, table in made.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return PairTables(**{name: [folder / f"{name}.parquet"] for name in made})


def balance(folder: Path, ids: np.ndarray, matrix: np.ndarray, leaked: dict[int, list[str]], **how) -> BalanceReport:
    embeddings = write_embeddings(folder / "embeddings.parquet", ids, matrix, id_column="image_id")
    forest = folder / "forest.parquet"
    near_duplicate_forest(embeddings, forest, max_distance=0.6, tile_rows=64, id_column="image_id")
    return semantic_balance(
        embeddings, forest, folder / "out", id_column="image_id", tables=tables(folder, ids, leaked), **how
    )


def read(folder: Path, table: str) -> list[dict]:
    return pq.read_table(folder / "out" / f"{table}.parquet").to_pylist()


@pytest.mark.parametrize("threshold", [0.06, 0.3])
def test_leaked_images_link_nothing_and_stand_in_filtered_pairs_alone(tmp_path: Path, threshold: float) -> None:
    ids, matrix = planted(5, groups=40)
    # Two links of the chain, which falls apart there at the smaller threshold, and a fifth of all others.
    chosen = [*ids[-20:-18], ids[-8], *ids[:-30:5]]
    leaked = {int(id_): ["b", "a", "a"] if number % 2 else ["a"] for number, id_ in enumerate(chosen)}
    report = balance(tmp_path, ids, matrix, leaked, threshold=threshold)
    rest = ~np.isin(ids, chosen)
    expected = brute_force(ids[rest], matrix[rest], threshold)
    assert {row["image_id"]: row["group_id"] for row in read(tmp_path, "balance_groups")} == expected
    joined = brute_force(ids, matrix, threshold)
    apart = {(joined[id_], expected[id_]) for id_ in expected}
    assert threshold > 0.1 or len(apart) > len({group for group, _ in apart}), "a leaked image linked others"
    reasons = {(row["sample_id"], row["image_id"]): row["reason"] for row in read(tmp_path, "filtered_pairs")}
    assert reasons == {
        (id_ * 2 + number, id_): f"evaluation leak: {', '.join(sorted(set(names)))}"
        for id_, names in leaked.items()
        for number in (0, 1)
    }
    for table in ("balanced_pairs", "removed_pairs", "blocked_pairs"):
        assert not {row["image_id"] for row in read(tmp_path, table)} & leaked.keys()
    assert (report.filtered, report.filtered_pairs) == (len(leaked), 2 * len(leaked))
    assert report.kept + report.removed + report.filtered == report.samples == len(ids)


@pytest.mark.parametrize("how", [{"rule": "semdedup", "cells": 2}, {"rule": "random"}, {"captions": "group"}])
def test_leaks_are_left_out_whatever_the_rule(tmp_path: Path, how: dict) -> None:
    ids, matrix = planted(6, groups=30)
    leaked = {int(id_): ["a"] for id_ in ids[::4]}
    report = balance(tmp_path, ids, matrix, leaked, target_removal=0.2, **how)
    used = {row["image_id"] for name in ("balance_groups", "balanced_pairs") for row in read(tmp_path, name)}
    assert used == set(ids.tolist()) - leaked.keys() and report.removed
    assert not {row["sample_id"] // 2 for row in read(tmp_path, "balanced_pairs")} & leaked.keys()


def test_without_a_leak_the_tables_are_the_same_bytes(tmp_path: Path) -> None:
    ids, matrix = planted(7, groups=30)
    made = []
    for name, without in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        balance(tmp_path / name, ids, matrix, {}, threshold=0.3)
        if without:
            given = tables(tmp_path / name, ids, {})
            given = PairTables(images=given.images, pairs=given.pairs, captions=given.captions)
            folder = tmp_path / name
            semantic_balance(
                folder / "embeddings.parquet",
                folder / "forest.parquet",
                folder / "out",
                id_column="image_id",
                tables=given,
                threshold=0.3,
            )
        made.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").glob("*.parquet")})
    assert made[0] == made[1]


def test_nothing_left_is_said_to_be_due_to_the_leaks(tmp_path: Path) -> None:
    ids, matrix = planted(8, groups=3)
    with pytest.raises(ConfigError, match=r"balance\.decontaminate: nothing is left, every pair is near"):
        balance(tmp_path, ids, matrix, {int(id_): ["a"] for id_ in ids}, threshold=0.3)
    with pytest.raises(ConfigError, match=r"near to an evaluation image, or balance\.where is not true for it: status"):
        leaked = {int(id_): ["a"] for id_ in ids[1:]}
        balance(tmp_path, ids, matrix, leaked, threshold=0.3, where=f"status = 'success' AND image_id <> {ids[0]}")


def test_evaluation_sets_do_not_enter_the_fingerprint_but_what_was_found() -> None:
    named = BalanceConfig(decontaminate={"datasets": ["a"], "threshold": 0.5})
    assert named.content() == BalanceConfig().content()

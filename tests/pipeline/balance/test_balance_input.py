"""What the balance makes of strange embeddings and forests: the right answer or a typed error."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.balance.semantic_balance import semantic_balance, threshold_sweep
from pipeline.core import query, schema
from pipeline.core.errors import ConfigError, EmbeddingError, PipelineError
from pipeline.core.query import QueryConfig
from pipeline.neighbors.search import near_duplicate_forest
from tests.pipeline.balance.test_balance import write


def forest(path: Path, edges: list[tuple[int, int, float]], max_distance: float = 0.6) -> Path:
    columns = list(zip(*edges)) or [[], [], []]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema.NEAR_DUPLICATES)]
    table_schema = schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(max_distance)})
    pq.write_table(pa.Table.from_arrays(arrays, schema=table_schema), path)
    return path


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample_id": [1, 1, 2], "image_embedding": [[1.0, 0.0]] * 3}, "1 values of sample_id stand more than once"),
        ({"sample_id": [1, None], "image_embedding": [[1.0, 0.0]] * 2}, "1 of 2 embeddings have no sample_id"),
        ({"sample_id": ["1"], "image_embedding": [[1.0]]}, "sample_id must be a 64-bit integer, got string"),
        ({"sample_id": [1, 2]}, r"no column \['image_embedding'\]; it has \['sample_id'\]"),
        ({"image_embedding": [[1.0]]}, r"no column \['sample_id'\]"),
        ({"sample_id": [1, 2, 3], "image_embedding": [[1.0], None, None]}, "2 nulls"),
        ({"sample_id": [1], "image_embedding": pa.array([[None, 1.0]], pa.list_(pa.float32()))}, "1 nulls"),
        (
            {"sample_id": [1, 2], "image_embedding": pa.array([[1.0, 0.0], None], pa.list_(pa.float16(), 2))},
            "1 nulls",
        ),
        ({"sample_id": [1, 2], "image_embedding": [[1.0], [0.6, 0.8]]}, r"mixed widths \[1, 2\]"),
        ({"sample_id": [1], "image_embedding": [[1]]}, "expected lists of floats"),
        ({"sample_id": [1], "image_embedding": [1.0]}, "expected lists of floats, got double"),
        (
            {"sample_id": pa.array([], pa.int64()), "image_embedding": pa.array([], pa.list_(pa.float32()))},
            "without a row",
        ),
    ],
)
def test_bad_embeddings_say_what_and_how_many(tmp_path: Path, columns: dict, message: str) -> None:
    path = table(tmp_path / "e.parquet", **columns)
    with pytest.raises(EmbeddingError, match=message):
        semantic_balance(path, forest(tmp_path / "f.parquet", []), tmp_path / "out", threshold=0.3)


def test_files_of_different_widths(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{width}.parquet", np.array([width]), np.eye(width, dtype=np.float16)[:1]) for width in (2, 3)
    ]
    with pytest.raises(EmbeddingError, match=r"mixed widths \[2, 3\] among 2 files"):
        semantic_balance(parts, forest(tmp_path / "f.parquet", []), tmp_path / "out", threshold=0.3)


def test_bad_forests(tmp_path: Path) -> None:
    embeddings = write(tmp_path / "e.parquet", np.array([1, 2]), np.eye(2, dtype=np.float16))
    (tmp_path / "text").write_text("no parquet")
    cases = {
        "2 ids are not among the embeddings, e.g. 5": forest(tmp_path / "a", [(1, 5, 0.1), (2, 7, 0.2)]),
        r"no column \['distance'\]": table(tmp_path / "b", id_a=[1], id_b=[2]),
        "not a readable Parquet file": tmp_path / "text",
        "none: not a readable Parquet file": tmp_path / "none",
    }
    for message, path in cases.items():
        with pytest.raises(EmbeddingError, match=message):
            semantic_balance(embeddings, path, tmp_path / "out", threshold=0.3)


def test_forest_of_blocked_strangers_is_refused_too(tmp_path: Path) -> None:
    embeddings = write(tmp_path / "e.parquet", np.array([1, 2]), np.eye(2, dtype=np.float16))
    (tmp_path / "list.txt").write_text("1\n9")
    with pytest.raises(EmbeddingError, match=r"1 ids are not among the embeddings, e\.g\. 9"):
        semantic_balance(
            embeddings,
            forest(tmp_path / "f", [(1, 9, 0.1)]),
            tmp_path / "out",
            threshold=0.3,
            blocklist=[tmp_path / "list.txt"],
        )


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["connected_components", "semdedup", "random"])
def test_one_row_and_rows_all_identical(tmp_path: Path, rule: str) -> None:
    for rows in (1, 50):
        embeddings = write(tmp_path / "e.parquet", np.arange(rows) + 5, np.eye(3, dtype=np.float16)[[0] * rows])
        near_duplicate_forest(embeddings, tmp_path / "f.parquet", max_distance=0.5)
        options: dict[str, Any] = {"rule": rule, "cells": 1}
        report = semantic_balance(embeddings, tmp_path / "f.parquet", tmp_path, threshold=0.3, **options)
        assert (report.kept, report.removed, report.largest_group) == (1, rows - 1, rows)
        assert report.max_distance_to_center == 0
        if rule == "connected_components":
            assert pq.read_table(tmp_path / "balance_groups.parquet")["group_id"].to_pylist() == [5] * rows
    report = semantic_balance(embeddings, tmp_path / "f.parquet", tmp_path, target_removal=0.5, **options)
    assert (report.threshold, report.kept) == (0.0, 1)
    with pytest.raises(ConfigError, match=r"out of reach: at the forest's max_distance 0.5 49 are removed \(0.980\)"):
        semantic_balance(embeddings, tmp_path / "f.parquet", tmp_path, target_removal=0.99, **options)


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    embeddings = write(tmp_path / "e.parquet", np.array([1]), np.eye(2, dtype=np.float16)[:1])
    with pytest.raises(PipelineError):
        semantic_balance(embeddings, forest(tmp_path / "f", [(1, 2, 0.1)]), tmp_path / "out", threshold=0.3)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("max_distance", "steps"), [(0.6, 60), (0.3, 7), (1.0, 64), (0.447, 97)])
def test_sweep_equals_a_comparison_of_every_pair(tmp_path: Path, max_distance: float, steps: int) -> None:
    """Distances on, just below and just above every threshold, where rounding would put them into the wrong step."""
    at = np.float32(max_distance * np.arange(steps + 1) / steps)
    distance = np.concatenate([at, np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(2))])
    distance = np.r_[distance, np.random.default_rng(0).random(500).astype(np.float32) * np.float32(max_distance)]
    distance = distance[distance <= np.float32(max_distance)]
    ends = np.arange(len(distance))
    path = forest(tmp_path / "f", list(zip(ends, ends + 1, distance)), max_distance)
    samples = len(distance) + 1
    found = threshold_sweep(path, samples, QueryConfig(), max_distance=max_distance, steps=steps).to_pylist()
    assert [row["removed"] for row in found] == [int((distance <= threshold).sum()) for threshold in at]
    assert [row["kept"] for row in found] == [samples - row["removed"] for row in found]
    assert found[-1]["removed"] == len(distance)
    assert [row["removal_rate"] for row in found] == pytest.approx([row["removed"] / samples for row in found])


def test_a_threshold_is_compared_as_the_float_that_distances_are(tmp_path: Path) -> None:
    """0.3 as a double is less than 0.3 as a float; an edge of exactly that distance is within the threshold."""
    embeddings = write(tmp_path / "e.parquet", np.array([1, 2]), np.eye(2, dtype=np.float16))
    path = forest(tmp_path / "f", [(1, 2, 0.3)], max_distance=0.3)
    assert semantic_balance(embeddings, path, tmp_path / "out", threshold=0.3).removed == 1


def test_small_memory_spills_and_gives_the_same_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, width = 60_000, 128
    matrix = rng.normal(size=(1, width)) + 0.05 * rng.normal(size=(rows, width))
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float16)
    embeddings = write(tmp_path / "e.parquet", np.arange(rows), matrix)
    edges = forest(tmp_path / "f", [(0, other, 0.2) for other in range(1, rows)])
    tables = []
    for limit in ("60MB", "2GB"):
        config = QueryConfig(memory_limit=limit)
        report = semantic_balance(embeddings, edges, tmp_path / limit, threshold=0.3, query_config=config)
        assert (report.kept, report.largest_group) == (1, rows)
        tables.append(pq.read_table(tmp_path / limit / "balance_groups.parquet"))
    assert tables[0].equals(tables[1])
    center = matrix.astype(np.float64) - matrix.astype(np.float64).mean(axis=0)
    assert tables[0]["group_id"][0].as_py() == np.einsum("ij,ij->i", center, center).argmin()


def test_every_query_is_used() -> None:
    root = Path(query.__file__).parents[2]
    source = "".join(
        path.read_text() for folder in ("pipeline", "training", "assets") for path in (root / folder).rglob("*.py")
    )
    unused = [path.stem for path in root.glob("*/**/sql/*.sql") if f'"{path.stem}"' not in source]
    assert not unused

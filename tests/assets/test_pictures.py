"""What the page shows of a stage."""

from pathlib import Path
from typing import Any

import pytest

from assets.page import pictures
from assets.page.columns import describe_column
from assets.page.pictures import _side_by_side
from pipeline.core import schema
from pipeline.storage.result import read_result
from tests.conftest import SmallRun


def row(model: str, task: str, metric: str, value: float, dataset: str = "demo") -> dict:
    return {"model": model, "task": task, "dataset": dataset, "metric": metric, "value": value, "samples": 10}


def test_models_stand_side_by_side() -> None:
    rows = [
        row("teacher", "zero_shot", "top1", 0.9),
        row("teacher", "linear_probe", "top1", 0.8),
        row("student", "zero_shot", "top1", 0.123456),
    ]
    assert _side_by_side(rows) == [
        {"metric": "zero_shot top1", "teacher": 0.9, "student": 0.1235},
        {"metric": "linear_probe top1", "teacher": 0.8},
    ]
    several = _side_by_side([*rows, row("teacher", "retrieval", "text_to_image_recall@1", 0.5, "other")])
    assert several[-1] == {"dataset": "other", "metric": "text_to_image_recall@1", "teacher": 0.5}


def test_every_column_is_described() -> None:
    tables = {
        "source_pairs": schema.SOURCE_PAIRS,
        "images": schema.IMAGES,
        "teacher_embeddings": schema.teacher_embeddings(4),
        "caption_embeddings": schema.caption_embeddings(4),
        "near_duplicates": schema.NEAR_DUPLICATES,
        "balance_groups": schema.BALANCE_GROUPS,
        "balanced_pairs": schema.BALANCED_PAIRS,
        "removed_pairs": schema.REMOVED_PAIRS,
        "blocked_pairs": schema.BLOCKED_PAIRS,
        "filtered_pairs": schema.FILTERED_PAIRS,
        "centroids": schema.centroids(4),
        "cluster_assignments": schema.CLUSTER_ASSIGNMENTS,
        "training_evaluations": schema.TRAINING_EVALUATIONS,
        "evaluation": schema.EVALUATION,
        "evaluation_leaks": schema.EVALUATION_LEAKS,
        "cluster_accuracy": schema.CLUSTER_ACCURACY,
    }
    missing = [
        (table, name) for table, columns in tables.items() for name in columns.names if not describe_column(table, name)
    ]
    assert not missing
    assert describe_column("cluster_assignments", "distance") != describe_column("near_duplicates", "distance")


def test_a_picture_is_drawn_again_only_if_what_it_shows_or_the_file_has_gone(
    copied: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    whole = pictures.cluster_size_histogram

    def draw(sizes: Any, *, full: Path) -> bytes:
        drawn.append(full)
        return whole(sizes, full=full)

    monkeypatch.setattr(pictures, "cluster_size_histogram", draw)
    result = read_result(copied.root, "clusters")
    first = pictures.cluster_pictures(result, copied.settings)
    assert pictures.cluster_pictures(result, copied.settings) == first
    assert drawn == [copied.root / "pictures" / "cluster_sizes.png"]
    drawn[0].unlink()
    assert pictures.cluster_pictures(result, copied.settings) == first and len(drawn) == 2
    (copied.root / ".marks/page/cluster_sizes.json").unlink()
    pictures.cluster_pictures(result, copied.settings)
    assert len(drawn) == 3 and drawn[0].is_file()

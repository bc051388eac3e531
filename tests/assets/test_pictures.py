from assets.page.columns import describe_column
from assets.page.pictures import _side_by_side
from pipeline.core import schema


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
        "near_duplicates": schema.NEAR_DUPLICATES,
        "balance_groups": schema.BALANCE_GROUPS,
        "balanced_pairs": schema.BALANCED_PAIRS,
        "removed_pairs": schema.REMOVED_PAIRS,
        "centroids": schema.centroids(4),
        "cluster_assignments": schema.CLUSTER_ASSIGNMENTS,
        "evaluation": schema.EVALUATION,
    }
    missing = [
        (table, name) for table, columns in tables.items() for name in columns.names if not describe_column(table, name)
    ]
    assert not missing
    assert describe_column("cluster_assignments", "distance") != describe_column("near_duplicates", "distance")

"""The demo benchmark's figures, on tables small enough to count by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import demo
from pipeline.storage.stage import Output, Stage

# url, its group, kept, kind, class, origin: two groups of three, one single image, one link that was dead.
IMAGES = [
    ("a", 1, True, "original", 7, None),
    ("a1", 1, False, "near_duplicate", 7, "a"),
    ("b", 1, False, "original", 7, None),
    ("c", 4, True, "original", 8, None),
    ("c1", 4, False, "near_duplicate", 8, "c"),
    ("d", 4, False, "original", 9, None),
    ("c2", 7, True, "near_duplicate", 8, "c"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    sizes = {group: sum(image[1] == group for image in IMAGES) for group in (1, 4, 7)}
    tables = {
        "images": [{"image_id": n, "url": image[0]} for n, image in enumerate(IMAGES)] + [{"image_id": 9, "url": "x"}],
        "balance_groups": [
            {"image_id": n, "group_id": group, "group_size": sizes[group], "kept": kept}
            for n, (_, group, kept, *_) in enumerate(IMAGES)
        ],
        "evaluation": [
            {"model": model, "task": task, "metric": "top1", "value": value}
            for model, task, value in (("student", "zero_shot", 0.5), ("student", "linear_probe", 0.9))
        ],
        "demo": [
            {"url": url, "kind": kind, "class_id": class_id, "origin_url": origin}
            for url, _, _, kind, class_id, origin in [*IMAGES, ("x", 0, False, "missing", 7, None)]
        ],
    }

    def write(output: Output) -> None:
        for table, rows in tables.items():
            pq.write_table(pa.Table.from_pylist(rows), output.path(f"{table}/truth.parquet"))

    Stage(tmp_path, "everything", version=1, config=None, inputs={"all": 1}).each(write)
    return tmp_path


def test_figures_are_those_counted_by_hand(root: Path) -> None:
    assert demo._results(root) == pytest.approx(
        {
            "kept_share": 3 / 7,
            "near_duplicate_recall": 2 / 3,
            "concept_purity": 5 / 6,
            "scene_purity": 4 / 6,
            "zero_shot_top1_student": 0.5,
        }
    )


def test_mean_and_spread_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_measure_seed", lambda seed: {"seed": seed, "seconds": 10.0 * seed})
    assert demo.measure([1, 2, 3])[3:] == [
        {"seed": "mean", "seconds": 20.0},
        {"seed": "standard deviation", "seconds": 10.0},
    ]

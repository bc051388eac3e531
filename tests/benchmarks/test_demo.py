"""The demo benchmark's figures, on tables small enough to count by hand."""

from pathlib import Path
from typing import Any

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


class Trained:
    """Stands for the runs: four test images, of which a student has those right that its seed and teacher say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ended_after: int = 99):
        self.settings: list[dict[str, Any]] = []
        self._last = ended_after
        monkeypatch.setattr(demo, "_train", self.train)
        monkeypatch.setattr(demo, "_threshold", lambda root: 0.1)
        monkeypatch.setattr(demo, "_right", lambda root, model: self.right(model))
        monkeypatch.setattr(demo, "_results", self.results)

    def train(self, run: Path, settings: dict[str, Any]) -> dict[str, float]:
        if len(self.settings) == self._last:
            raise KeyboardInterrupt
        run.mkdir(parents=True, exist_ok=True)
        self.settings.append(settings)
        return {"seconds": 10.0} if settings["student"]["seed"] == 1 else {}

    def right(self, model: str) -> list[int]:
        seed = self.settings[-1]["student"]["seed"]
        count = 2 if model == "baseline" else min(2 * seed, 4)
        return [1] * count + [0] * (4 - count)

    def results(self, root: Path) -> dict[str, float]:
        share = {model: sum(self.right(model)) / 4 for model in ("student", "baseline")}
        return {
            "zero_shot_top1_student": share["student"],
            "zero_shot_top1_baseline": share["baseline"],
            "difference": share["student"] - share["baseline"],
        }


def test_seeds_of_each_teacher_and_what_they_say_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(monkeypatch)
    changes = {"student": {"steps": 3}, "clusters": {"clusters": 4}}
    rows = demo.measure([7, 8], [1, 2], folder=tmp_path / "work", changes=changes)
    assert [(row["teacher_seed"], row["seed"]) for row in rows] == [
        *((7, 1), (7, 2), (8, 1), (8, 2)),
        *((teacher, kind) for teacher in (7, 8, "all") for kind in ("mean", "standard deviation", "paired")),
    ]
    assert trained.settings[3] == {
        "root": "data",
        "balance": {"target_removal": 0.437},
        "student": {"steps": 3, "seed": 2},
        "demo": {"seed": 8},
        "clusters": {"clusters": 4, "seed": 8},
        "shards": {"seed": 8},
    }
    # Seed 1 is as good as its baseline, seed 2 has all right: half a share ahead.
    mean, spread, paired = rows[-3:]
    assert (mean["difference"], mean["threshold"], spread["difference"]) == (0.25, 0.1, 0.2887)
    assert "seconds" in rows[0] and "seconds" not in mean, "a mean is of what all have"
    assert {name: paired[name] for name in ("mean", "wins", "wins_by_10_points", "seeds")} == {
        "mean": 0.25,
        "wins": 2,
        "wins_by_10_points": 2,
        "seeds": 4,
    }
    assert 0 <= paired["low"] < 0.25 < paired["high"] <= 0.75
    assert not (tmp_path / "work").exists()


def test_a_benchmark_that_was_ended_goes_on_with_the_seed_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trained(monkeypatch)
    expected = demo.measure([7], [1, 2, 3], folder=tmp_path / "whole", changes={"student": {"steps": 3}})
    Trained(monkeypatch, ended_after=2)
    with pytest.raises(KeyboardInterrupt):
        demo.measure([7], [1, 2, 3], folder=tmp_path / "work", changes={"student": {"steps": 3}})
    rest = Trained(monkeypatch)
    assert demo.measure([7], [1, 2, 3], folder=tmp_path / "work", changes={"student": {"steps": 3}}) == expected
    assert [settings["student"]["seed"] for settings in rest.settings] == [3] and len(whole.settings) == 3


def test_what_was_measured_with_other_settings_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained(monkeypatch, ended_after=1)
    with pytest.raises(KeyboardInterrupt):
        demo.measure([7], [1, 2], folder=tmp_path / "work")
    again = Trained(monkeypatch)
    demo.measure([7], [1, 2], folder=tmp_path / "work", changes={"student": {"steps": 3}})
    assert len(again.settings) == 2


def test_images_that_are_right_must_be_those_that_were_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained(monkeypatch)
    monkeypatch.setattr(demo, "_right", lambda root, model: [1, 1, 1, 0])
    with pytest.raises(RuntimeError, match=r"student: 0\.75 of the test images are right"):
        demo.measure([7], [1], folder=tmp_path / "work")

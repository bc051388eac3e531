"""The ablation's figures, its report, and the tables of the page of results."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from assets.page.ablation_plot import ablation_bars, ablation_curves
from assets.page.style import MAX_BYTES
from assets.tools.ablation_report import differences, read_points, report, whole_report, write_points
from assets.tools.results_page import PAGE, demo_table, page
from assets.tools.students_report import models_table, students_tables
from training.ablation.points import Point, comparisons, means, within

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "benchmarks" / "results"


def test_bars_of_a_grid_and_of_part_of_one(tmp_path: Path) -> None:
    rows = [
        {"data": data, "losses": losses, "mean": 0.1, "spread": 0.01, "seeds": 3}
        for data in ("all", "random", "balanced")
        for losses in ("contrastive", "both")
    ]
    for shown in (rows + [row | {"axis": "epochs"} for row in rows], rows[:3], []):
        picture = ablation_bars(shown, full=tmp_path / "a.png")
        assert picture.startswith(b"\xff\xd8") and len(picture) <= MAX_BYTES
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_table_shows_what_is_missing() -> None:
    rows = [
        {"data": "all", "losses": "both", "mean": 0.25, "spread": 0.02, "seeds": 3},
        {"data": "all", "losses": "contrastive", "mean": 0.2, "spread": 0.0, "seeds": 1},
        {"data": "balanced", "losses": "contrastive", "mean": 0.3, "spread": 0.1, "seeds": 2},
    ]
    assert report(rows).splitlines() == [
        "| losses | all | balanced |",
        "| --- | --- | --- |",
        "| `contrastive` | 20.0 % (1) | 30.0 ± 10.0 % (2) |",
        "| `both` | 25.0 ± 2.0 % (3) | – |",
    ]


def _points(**changes: Any) -> list[Point]:
    """Two choices of data, measured on the way too; balanced pairs are better, by less with seed 2."""
    return [
        {
            "axis": axis,
            "data": data,
            "losses": losses,
            "seed": seed,
            "steps": steps,
            "step": step,
            "epochs": step / 10,
            "elapsed_s": step / (2 if data == "all" else 1),
            "value": step / 100 + (data == "balanced") * 0.1 / seed + (losses == "both") * 0.2,
            **changes,
        }
        for axis, data, steps in (
            ("steps", "all", 20),
            ("steps", "balanced", 20),
            ("epochs", "all", 20),
            ("epochs", "balanced", 10),
        )
        for losses in ("contrastive", "both")
        for seed in (1, 2)
        for step in range(10, steps + 1, 10)
    ]


def test_a_report_has_all_three_axes_and_differences_within_seeds() -> None:
    text = whole_report(_points())
    assert "At equal steps, 20:" in text and "At equal epochs (all 20 steps, balanced 10 steps):" in text
    # Balanced pairs take twice the time for a step here, so within 10 s they are at half of them.
    assert "At equal cost, what was last measured within 10.0 s of training:" in text
    assert "| `both` | 40.0 ± 0.0 % (2) | 37.5 ± 3.5 % (2) |" in text
    (found,) = [c for c in comparisons(_points()) if (c.axis, c.first, c.where) == ("steps", "balanced", "both")]
    assert found.second == "all" and found.difference.mean == pytest.approx(0.075)
    assert "+7.5 (-24.3 to +39.3), 2 of 2" in text
    assert "| `both` − `contrastive` | +20.0" in differences(_points())


def test_within_a_time_it_is_the_last_measurement_that_counts() -> None:
    found = {(row["data"], row["seed"]): row["step"] for row in within(_points(), 10.0) if row["losses"] == "both"}
    assert found == {("all", 1): 20, ("all", 2): 20, ("balanced", 1): 10, ("balanced", 2): 10}
    assert not within(_points(elapsed_s=None), 10.0)


def test_curves_of_a_grid_of_which_some_times_are_not_known(tmp_path: Path) -> None:
    rows = [row | ({"elapsed_s": None} if row["axis"] == "epochs" else {}) for row in _points()]
    picture = ablation_curves(means(rows), full=tmp_path / "c.png")
    assert picture.startswith(b"\xff\xd8") and len(picture) <= MAX_BYTES


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [*_points(), *_points(axis="steps", epochs=None, elapsed_s=None, seed=9)]
    write_points(rows, tmp_path / "points.csv")
    again = read_points(tmp_path / "points.csv")
    key = json.dumps
    assert sorted(again, key=key) == sorted(rows, key=key)


def test_the_page_of_results_is_what_the_results_say() -> None:
    text = (PROJECT / PAGE).read_text()
    assert text == page(text, RESULTS)
    with pytest.raises(ValueError, match="end: ablation"):
        page(text.replace("<!-- end: ablation -->", ""), RESULTS)


def test_another_result_is_another_page(tmp_path: Path) -> None:
    for name in ("demo.json", "ablation.csv"):
        shutil.copy(RESULTS / name, tmp_path / name)
    demo = json.loads((tmp_path / "demo.json").read_text())
    demo["rows"][0]["zero_shot_top1_student"] -= 0.1
    (tmp_path / "demo.json").write_text(json.dumps(demo))
    text = (PROJECT / PAGE).read_text()
    assert page(text, tmp_path) != text


def test_seeds_of_teachers_are_told_with_what_they_say_together() -> None:
    seeds = [
        {"teacher_seed": teacher, "seed": seed, "threshold": 0.1234, "kept_share": 0.563,
         **{f"zero_shot_top1_{model}": share for model, share in
            (("teacher", 0.8), ("student", 0.6 + seed / 100), ("baseline", 0.5))}}
        for teacher in (1, 3) for seed in (1, 2)
    ]  # fmt: skip
    paired = {"teacher_seed": "all", "seed": "paired", "mean": 0.115, "low": 0.1, "high": 0.13, "wins": 4, "seeds": 4}
    lines = demo_table([*seeds, {**paired, "wins_by_10_points": 4}]).splitlines()
    assert lines[2] == "| 1 | 1 | 0.123 | 56.3 % | 80.0 % | 61.0 % | 50.0 % | +11.0 |"
    assert lines[6].endswith("| 80.0 ± 0.0 % | 61.5 ± 0.6 % | 50.0 ± 0.0 % | +11.5 ± 0.6 |")
    assert "+11.5 (+10.0 to +13.0), 4 of 4; by 10 points or more in 4." in lines[-1]


def test_choices_are_compared_with_the_first_of_their_part() -> None:
    row = {"part": "losses", "axis": "steps", "dataset": "x", "steps": 9, "top5": 1.0}
    rows = [
        {**row, "choice": choice, "seed": seed, "top1": top1 + seed / 100}
        for choice, top1 in (("clip_cid", 0.5), ("best", 0.52))
        for seed in (0, 1)
    ]
    assert students_tables(rows).splitlines() == [
        "| losses, equal steps | x | − clip_cid |",
        "| --- | --- | --- |",
        "| clip_cid | 50.5 ± 0.7 % |  |",
        "| best | 52.5 ± 0.7 % | +2.0 (+2.0 to +2.0), 2 of 2 |",
    ]


def test_models_stand_side_by_side() -> None:
    rows = [
        {"dataset": "x", "model": model, "top1_percent": top1, "top5_percent": 2 * top1}
        for model, top1 in (("baseline", 1.0), ("student", 2.04))
    ]
    assert models_table(rows).splitlines() == [
        "| per cent | student, top-1 | student, top-5 | baseline, top-1 | baseline, top-5 |",
        "| --- | --- | --- | --- | --- |",
        "| `x` | 2.0 | 4.1 | 1.0 | 2.0 |",
    ]

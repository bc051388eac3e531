"""The ablation's figure."""

from pathlib import Path

from assets.page.ablation_plot import ablation_bars
from assets.page.style import MAX_BYTES
from assets.tools.ablation_report import report


def test_bars_of_a_grid_and_of_part_of_one(tmp_path: Path) -> None:
    rows = [
        {"data": data, "losses": losses, "mean": 0.1, "spread": 0.01, "seeds": 3}
        for data in ("all", "random", "balanced")
        for losses in ("contrastive", "both")
    ]
    for shown in (rows, rows[:3], []):
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

"""The ablation's figure."""

from pathlib import Path

from assets.plots import MAX_BYTES
from assets.plots_ablation import ablation_bars


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

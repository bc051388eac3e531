"""The figures that compare rules, on a small finished run."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import demo, rules
from tests.conftest import SmallRun


def test_figures_of_the_rules(finished: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default rule's are those of benchmarks/demo.py; labels may come from another file."""
    monkeypatch.setattr(rules, "_RULES", ("connected_components", "bounded"))
    monkeypatch.setattr(rules, "_REMOVALS", (0.3, 0.999))
    ours, bounded, *too_much = rules.measure(finished.root)
    with duckdb.connect() as connection:
        connection.execute((finished.root / "catalog.sql").read_text())
        connection.execute(demo._IMAGES, {"truth": str(finished.root / "demo" / "truth.parquet")})
        kept, *figures = connection.execute(demo._BALANCE).fetchall()[0]
        urls = connection.sql("SELECT url FROM images").fetchall()
    names = ("near_duplicate_recall", "concept_purity", "scene_purity")
    assert [ours[name] for name in names] == [round(figure, 4) for figure in figures]
    assert ours["removed_share"] == round(1 - kept, 4)
    assert bounded["beyond_threshold"] == 0 < bounded["max_distance"] <= bounded["threshold"] + 1e-4
    assert all("out of reach" in row["failed"] for row in too_much)

    pq.write_table(pa.table({"url": [url for (url,) in urls], "same": ["x"] * len(urls)}), tmp_path / "truth.parquet")
    row, *_ = rules.measure(finished.root, truth=tmp_path / "truth.parquet", labels=["same"])
    assert (row["same_purity"], row["same_removed_with_another"]) == (1, 0)
    with pytest.raises(SystemExit, match="no column"):
        rules.measure(finished.root, truth=tmp_path / "truth.parquet", labels=["other"])

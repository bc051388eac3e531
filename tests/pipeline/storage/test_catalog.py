from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.catalog import write_catalog


def test_a_view_for_each_table_that_is_there_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "it's a root"
    for table in ("images", "no_table_of_ours"):
        (root / table).mkdir(parents=True)
        pq.write_table(pa.table({"value": [1, 2]}), root / table / "00000.parquet")
    (root / "balanced_pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    catalog = write_catalog(Path("it's a root"))
    monkeypatch.chdir("/")
    connection = duckdb.connect()
    connection.execute((tmp_path / catalog).read_text())
    assert connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall() == [("images",)]
    assert connection.sql("SELECT sum(value) FROM images").fetchall() == [(3,)]

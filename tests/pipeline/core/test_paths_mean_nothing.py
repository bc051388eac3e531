"""A folder named like a column and a value is a folder: DuckDB would put that value in the place of the column."""

import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.source.stage import import_pairs
from tests.pipeline.balance.test_balance import balance, planted
from tests.pipeline.source.test_source import CAPTIONS, URLS, parquet, rows, run

PROJECT = Path(__file__).resolve().parents[3]
FOLDERS = ("kept=0", "sample_id=7", "shard=3", "TEXT=x", "caption=y", "group_id=1/kept=false", "distance=0.0")


def test_every_reader_is_told_so() -> None:
    texts = [
        path.read_text()
        for package in ("pipeline", "training", "assets")
        for ending in ("py", "sql")
        for path in (PROJECT / package).rglob(f"*.{ending}")
    ]
    calls = [
        call for text in texts for call in re.findall(r"\bread_(?:parquet|csv|json\w*)\((?:[^()]|\([^()]*\))*\)", text)
    ]
    assert len(calls) > 50
    assert [call for call in calls if not re.search(r"hive_partitioning ?= ?(false|False)", call)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_balance_sees_its_columns(tmp_path: Path, folder: str) -> None:
    ids, matrix = planted(1, groups=40)
    plain = balance(tmp_path / "plain", ids, matrix, threshold=0.3)
    found = balance(tmp_path / folder, ids, matrix, threshold=0.3)
    assert found == plain


@pytest.mark.parametrize("folder", FOLDERS)
def test_lists_and_catalog_have_what_is_in_the_files(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    lists = [
        parquet(place / "list.parquet", URLS, CAPTIONS),
        place / "list.csv",
        place / "list.tsv",
        place / "list.json",
    ]
    duckdb.from_arrow(pq.read_table(lists[0])).write_csv(str(lists[1]))
    duckdb.from_arrow(pq.read_table(lists[0])).write_csv(str(lists[2]), sep="\t")
    duckdb.sql(f"COPY (FROM read_parquet('{lists[0]}', hive_partitioning = false)) TO '{lists[3]}'")
    expected = rows(run(tmp_path / "plain", lists[0]))
    for number, path in enumerate(lists):
        config = SourceConfig(lists=[str(path)], samples_per_shard=10)
        result = import_pairs(place / f"root{number}", config, QueryConfig(), lists=config.lists)
        assert sorted(rows(result), key=str) == sorted(expected, key=str), path
    connection = duckdb.connect()
    connection.execute((place / "root0" / "catalog.sql").read_text())
    found = connection.sql("SELECT sample_id, url, caption FROM source_pairs").fetchall()
    assert sorted(found) == sorted((row["sample_id"], row["url"], row["caption"]) for row in expected)

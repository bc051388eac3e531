"""The queries of the README work as they are pasted."""

import re
from pathlib import Path

import duckdb
import pytest

from assets.settings import Settings
from tests.conftest import SmallRun

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
QUERIES = [
    query.strip()
    for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    for query in block.split(";")
    if query.strip()
]


@pytest.mark.parametrize("query", QUERIES, ids=[query.splitlines()[0][3:] for query in QUERIES])
def test_query_runs(finished: SmallRun, query: str) -> None:
    connection = duckdb.connect()
    connection.execute((finished.root / "catalog.sql").read_text())
    if "evaluation" in query:
        connection.execute(
            "CREATE VIEW evaluation AS SELECT 'student' AS model, 'zero_shot' AS task, 'demo' AS dataset, "
            "'top1' AS metric, 0.5 AS value, 10 AS samples"
        )
    assert connection.sql(query).fetchall()


def test_default_root_is_the_one_the_readme_names() -> None:
    assert f"{Settings().root}/catalog.sql" in README

"""The queries of the README work as they are pasted."""

import re
from pathlib import Path

import duckdb
import pytest

from assets.settings import Settings
from tests.conftest import SmallRun
from tests.shared import plain_embeddings

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


def test_five_lines_for_a_folder_of_embeddings_run(
    finished: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    plain_embeddings(finished.root, tmp_path / "embeddings")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    verdicts = duckdb.sql("SELECT count(*), count(*) FILTER (kept) FROM 'balanced/balance_groups.parquet'").fetchall()[
        0
    ]
    assert verdicts[0] > verdicts[1] > 0
    assert (tmp_path / "balanced" / "removed_pairs.parquet").exists()

"""What a job says at its end: once, with figures of its own tables, and paths that are there."""

import re
import shlex
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from assets.page.summary import balance_summary, evaluation_summary
from pipeline.core import schema
from pipeline.storage.result import read_result
from pipeline.storage.stage import Stage
from tests.conftest import SmallRun


def evaluated(root: Path, rows: list[dict]) -> None:
    """The stage ``evaluation`` with these rows."""
    stage = Stage(root, "evaluation", version=0, config=None, inputs={"evaluation": 0})
    with stage.running(), stage.output("evaluation") as output:
        table = pa.Table.from_pylist(rows, schema=schema.EVALUATION)
        pq.write_table(table, output.path("evaluation/evaluation.parquet"))
    with stage.running():
        stage.finish()


def row(model: str, value: float, **changes: str) -> dict:
    names = {"task": "zero_shot", "dataset": "birds", "metric": "top1"}
    return {"model": model, "value": value, "samples": 9, **names, **changes}


def test_the_balance_says_what_was_kept_and_where_it_is(finished: SmallRun) -> None:
    balance = read_result(finished.root, "balance")
    first, pictures, tables, following = balance_summary(balance, finished.settings).splitlines()
    connection = duckdb.connect()
    _, _, catalog = shlex.split(tables.removeprefix("Tables: "))
    connection.execute(Path(catalog).read_text())
    ((kept, removed),) = connection.sql(
        "SELECT (SELECT count(*) FROM balanced_pairs), (SELECT count(*) FROM removed_pairs)"
    ).fetchall()
    threshold = balance.stats["threshold"]
    assert first == (
        f"Kept {kept} of {kept + removed} images: {removed} removed by rule connected_components at "
        f"threshold {threshold:.3g}"
    )
    assert pictures == f"Pictures: {finished.root.resolve()}/pictures"
    assert "balance.threshold" in following


def test_the_evaluation_compares_the_models(copied: SmallRun) -> None:
    rows = [row("teacher", 0.755), row("student", 0.4333), row("teacher", 0.9, metric="top5")]
    evaluated(copied.root, [*rows, row("teacher", 0.5, dataset="cars"), row("student", 0.1, task="linear_probe")])
    text = evaluation_summary(read_result(copied.root, "evaluation"), copied.settings)
    assert re.match(r"Kept \d+ of \d+ images", text)
    assert "Zero-shot top-1 on birds: teacher 75.5%, student 43.3%\nZero-shot top-1 on cars: teacher 50.0%\n" in text
    assert f"Student: {copied.root.resolve()}/student, " in text


def test_without_zero_shot_there_is_nothing_to_compare(copied: SmallRun) -> None:
    evaluated(copied.root, [row("teacher", 0.5, task="linear_probe")])
    assert "Zero-shot" not in evaluation_summary(read_result(copied.root, "evaluation"), copied.settings)

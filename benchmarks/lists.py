"""Reading a list: our reader of CSV against DuckDB's on the same file, in turns; both end in a DuckDB table.

Half of the captions are plain; the others hold commas, quotation marks and line ends. DuckDB is told the whole dialect.
"""

import csv
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.turns import ratio, take_turns
from pipeline.source.config import SourceConfig
from pipeline.source.delimited import insert_delimited
from pipeline.source.listed import find_lists

_ROWS, _ROUNDS = 400_000, 5
_CAPTIONS = ("a plain caption", "another one of them", "with, a comma", 'a "quoted" word\nand a second line')


def measure(rows: int = _ROWS, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["URL", "TEXT"])
            writer.writerows((f"http://example.com/{n}", f"{draw.choice(_CAPTIONS)} {n}") for n in range(rows))
        times = take_turns({"ours": lambda: _ours(path, rows), "duckdb": lambda: _duckdb(path, rows)}, rounds=rounds)
        size = path.stat().st_size
    seconds = {f"{name}_s": round(statistics.median(found), 2) for name, found in times.items()}
    return [
        {"rows": rows, "megabytes": round(size / 1e6), **seconds, "ours_over_duckdb": ratio(times, "ours", "duckdb")}
    ]


def _ours(path: Path, rows: int) -> None:
    config = SourceConfig(lists=[str(path)])
    (listed,) = find_lists(config.lists, config)
    with duckdb.connect() as connection:
        connection.execute("CREATE TEMP TABLE source_rows (url VARCHAR, caption VARCHAR, list_index BIGINT)")
        insert_delimited(connection, listed, config, list_index=0)
        assert connection.sql("SELECT count(*) FROM source_rows").fetchall() == [(rows,)]


def _duckdb(path: Path, rows: int) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            f"""CREATE TEMP TABLE source_rows AS SELECT *, 0::BIGINT AS list_index FROM read_csv('{path}',
            columns = {{'url': 'VARCHAR', 'caption': 'VARCHAR'}}, auto_detect = false, header = true, delim = ',',
            quote = '"', escape = '"', comment = '', strict_mode = true, hive_partitioning = false)"""
        )
        assert connection.sql("SELECT count(*) FROM source_rows").fetchall() == [(rows,)]

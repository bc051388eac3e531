"""The catalog as a user reads it: from any folder, under any name, moved, copied, kept in a database file."""

import shutil
import subprocess
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.catalog import follow_move, write_catalog
from pipeline.storage.stage import Output, Stage

NAMES = (
    "root",
    "it's a root",
    'two "words"',
    "[a-z]",
    "[half",
    "shut]",
    "a*",
    "**",
    "what?",
    "[*]",
    "a, b; -- $c",
    "ü\nü",
)


def make_root(root: Path, value: int = 3) -> Path:
    """A root with one finished stage, an unfinished one, and a file that somebody has put there."""

    def write(output: Output) -> None:
        for name in ("images/00000.parquet", "images/index/00000.parquet"):
            pq.write_table(pa.table({"value": [value]}), output.path(name))

    Stage(root, "images", version=1, config=None, inputs={"00000": 1}).each(write)
    unfinished = Stage(root, "clusters", version=1, config=None, inputs={"a": 1, "b": 1})
    with unfinished.output("a") as output:
        pq.write_table(pa.table({"value": [value]}), output.path("centroids/a.parquet"))
    (root / "no_table_of_ours").mkdir()
    pq.write_table(pa.table({"value": [value]}), root / "no_table_of_ours" / "00000.parquet")
    return root


def values(connection: duckdb.DuckDBPyConnection, view: str = "images") -> list[int]:
    return [value for (value,) in connection.sql(f"SELECT value FROM {view}").fetchall()]


def loaded(catalog: Path, *, before: str = "") -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(before + catalog.read_text())
    return connection


@pytest.mark.parametrize("name", NAMES)
def test_a_view_for_each_table_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_root(tmp_path / name)
    # What the name would match if it were read as a pattern.
    for other in ("a", "ab", "whatx"):
        make_root(tmp_path / other, value=999)
    monkeypatch.chdir(tmp_path)
    catalog = tmp_path / write_catalog(Path(name))
    monkeypatch.chdir("/")
    connection = loaded(catalog)
    assert connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall() == [("images",)]
    assert values(connection) == values(connection.cursor()) == [3]


def test_a_query_takes_the_text(tmp_path: Path) -> None:
    connection = duckdb.connect()
    connection.sql(write_catalog(make_root(tmp_path / "root")).read_text())
    assert values(connection) == [3]


@pytest.mark.skipif(shutil.which("duckdb") is None, reason="DuckDB's command line is not installed")
def test_the_command_line_takes_the_file(tmp_path: Path) -> None:
    catalog = write_catalog(make_root(tmp_path / "a [root]"))

    def ask(*options: str) -> str:
        command = ["duckdb", "-csv", "-noheader", *options, "-c", "SELECT value FROM images"]
        return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout.strip()

    assert ask("-init", str(catalog)) == "3"
    moved = catalog.parent.rename(tmp_path / "moved")
    place = f"SET VARIABLE clip_cid_root = '{moved}'"
    # Not by -init, which is read before any command.
    assert ask("-cmd", place, "-cmd", f".read {moved}/catalog.sql") == "3"


def test_a_reader_says_where_a_copy_is(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    write_catalog(root)
    copy = shutil.copytree(root, tmp_path / "copy")
    pq.write_table(pa.table({"value": [4]}), copy / "images" / "00000.parquet")
    connection = loaded(copy / "catalog.sql", before=f"SET VARIABLE clip_cid_root = '{copy}';")
    assert values(connection) == [4]


def test_a_moved_root_is_followed(tmp_path: Path) -> None:
    before = make_root(tmp_path / "before")
    catalog = write_catalog(before)
    written = catalog.stat().st_mtime_ns
    follow_move(before)
    assert catalog.stat().st_mtime_ns == written
    after = before.rename(tmp_path / "before, but elsewhere")
    follow_move(after)
    assert values(loaded(after / "catalog.sql")) == [3]


def test_no_catalog_is_none_to_follow(tmp_path: Path) -> None:
    (make_root(tmp_path / "root") / "catalog.sql").unlink()
    follow_move(tmp_path / "root")
    assert not (tmp_path / "root" / "catalog.sql").exists()


def test_views_last_in_a_database_file(tmp_path: Path) -> None:
    catalog = write_catalog(make_root(tmp_path / "root"))
    with duckdb.connect(tmp_path / "kept.db") as connection:
        connection.execute(catalog.read_text())
    with duckdb.connect(tmp_path / "kept.db") as connection:
        assert values(connection) == [3]
    connection = duckdb.connect()
    connection.execute(f"ATTACH '{tmp_path / 'kept.db'}' AS kept (READ_ONLY)")
    assert values(connection, "kept.images") == [3]

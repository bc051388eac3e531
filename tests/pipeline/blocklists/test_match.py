from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.balance.semantic_balance import semantic_balance
from pipeline.blocklists import BlockedCounts, blocked_rows
from pipeline.blocklists.hosts import normal_host
from pipeline.core.errors import BlocklistError
from pipeline.neighbors.search import near_duplicate_forest
from tests.pipeline.balance.test_balance import planted, write

URLS = ["http://a/1", " http://a/2 ", "http://a/1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images that are no duplicates, two of them with the same URL."""
    write(tmp_path / "e.parquet", np.array([10, 20, 30]), np.eye(3, dtype=np.float16))
    near_duplicate_forest(tmp_path / "e.parquet", tmp_path / "f.parquet", max_distance=0.5)
    named = pq.read_table(tmp_path / "e.parquet").append_column("url", pa.array(URLS))
    pq.write_table(named, tmp_path / "named.parquet")
    return tmp_path


def blocked(data: Path, *files: Path, urls: bool = True) -> dict[int, str]:
    report = semantic_balance(
        data / ("named.parquet" if urls else "e.parquet"),
        data / "f.parquet",
        data / "out",
        threshold=0.3,
        blocklist=files,
    )
    rows = pq.read_table(data / "out" / "blocked_pairs.parquet").to_pylist()
    assert report.blocked == len(rows)
    return {row["sample_id"]: row["matched"] for row in rows}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "10\n", {10: "sample_id"}),
        ("a", "# note\n\n  http://a/1 \n20\n", {10: "url", 30: "url", 20: "sample_id"}),
        ("a.csv", "sample_id,reason\n30,asked\n30,again\n", {30: "sample_id"}),
        ("a.csv", "url,sample_id\nhttp://a/2,\n,10\n", {20: "url", 10: "sample_id"}),
        ("a.csv", "url\nhttp://b/unknown\n", {}),
        (
            "a.csv",
            '\ufeffsample_id,"why, and\nwho"\r\n10,"#1 ""x"""\r\n\r\n20,\r\n',
            {10: "sample_id", 20: "sample_id"},
        ),
        ("a.txt", "http://a/1?\u2028\n20\n", {20: "sample_id"}),
        ("a.txt", "-9223372036854775808\n", {}),
    ],
)
def test_every_kind_of_file(data: Path, name: str, content: str, expected: dict) -> None:
    if set(expected) == {10, 20, 30}:
        with pytest.raises(BlocklistError, match="blocks all 3 images"):
            (data / name).write_text(content)
            blocked(data, data / name)
        return
    (data / name).write_text(content)
    assert blocked(data, data / name) == expected


def test_parquet_and_several_files(data: Path) -> None:
    pq.write_table(pa.table({"sample_id": pa.array([10], pa.int64()), "x": [1]}), data / "a.parquet")
    (data / "b.txt").write_text("20")
    assert blocked(data, data / "a.parquet", data / "b.txt") == {10: "sample_id", 20: "sample_id"}
    assert blocked(data, data / "a.parquet", urls=False) == {10: "sample_id"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sample_id,why\n10,x\n20\n", "line 3 has 1 fields, the first one 2"),
        ("a.csv", 'sample_id,why\n10,"x\n20,y\n', "cannot be read as CSV"),
        ("a.csv", "sample_id,sample_id\n10,20\n", "there twice"),
        ("a.csv", "key,reason\n1,x\n", r"no column sample_id, .*, md5 or host; it has \['key', 'reason'\]"),
        ("a.csv", "sample_id\nx1\n10\nx2\n", "2 values of sample_id are no 64-bit integer: 'x1'"),
        ("a.txt", "10\nhello there\nftp://a/1\n", "2 of 3 lines are neither an id, an http"),
        ("a.txt", "99999999999999999999\n", "1 of 1 lines are neither"),
        ("a.txt", "# nothing\n", "not one entry"),
        ("a.csv", "url\n", "not one entry"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.txt", "10\n20\n30\n", "blocks all 3 images"),
        ("a.txt", "b.example\n", "1 of 1 lines are neither .* nor a host"),
        ("a.txt", "host:http://b.example/\n", "1 values of host are no host name"),
        ("a.txt", "host:b.example:80\n", "1 values of host are no host name"),
        ("a.txt", "0123456789abcdef\n", "1 of 1 lines are neither"),
        ("a.csv", f"md5\n{1:064d}\n", "1 values of md5 are no 32 hexadecimal digits"),
        ("a.csv", f"sha256\n{1:032d}\n", "1 values of sha256 are no 64 hexadecimal digits"),
    ],
)
def test_bad_files_are_named(data: Path, name: str, content: str, message: str) -> None:
    (data / name).write_text(content)
    with pytest.raises(BlocklistError, match=message):
        blocked(data, data / name)


def test_missing_files_and_urls_without_images(data: Path) -> None:
    with pytest.raises(BlocklistError, match=r"1 of 1 blocklist files are missing, e\.g\. .*none\.txt"):
        blocked(data, data / "none.txt")
    (data / "a.txt").write_text("http://a/1\nhttp://a/2")
    with pytest.raises(BlocklistError, match="names 2 entries of kind url, but nothing says"):
        blocked(data, data / "a.txt", urls=False)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_groups_are_those_of_the_whole_set_less_the_blocked(tmp_path: Path, share: float) -> None:
    """A blocked image links its neighbors, is not in their mean, and never stands for them."""
    from tests.pipeline.balance.test_balance import brute_force

    ids, matrix = planted(11)
    embeddings = write(tmp_path / "e.parquet", ids, matrix)
    near_duplicate_forest(embeddings, tmp_path / "f.parquet", max_distance=0.6)
    gone = ids[np.random.default_rng(1).random(len(ids)) < share]
    (tmp_path / "list.txt").write_text("\n".join(map(str, gone)))
    expected = brute_force(ids, matrix, 0.3, without=set(gone.tolist()))
    for rule in ({"threshold": 0.3}, {"target_removal": 0.2}):
        report = semantic_balance(
            embeddings, tmp_path / "f.parquet", tmp_path, blocklist=[tmp_path / "list.txt"], **rule
        )
        rows = pq.read_table(tmp_path / "balance_groups.parquet").to_pylist()
        assert {row["sample_id"] for row in rows} == set(ids.tolist()) - set(gone.tolist())
        assert report.kept + report.removed + report.blocked == report.samples == len(ids)
        expected = brute_force(ids, matrix, report.threshold, without=set(gone.tolist()))
        assert {row["sample_id"]: row["group_id"] for row in rows} == expected
        if "target_removal" in rule:
            assert report.removed >= 0.2 * len(rows)


HOSTS = {
    1: "http://Example.COM/a.jpg",
    2: "https://user:word@img.example.com:8080/a.jpg?u=http://other.example",
    3: "http://notexample.com/a.jpg",
    4: "http://b\u00fccher.example/host:example.com",
    5: "http://xn--bcher-kva.EXAMPLE./a.jpg",
    6: "http://ex%61mple.com/a.jpg",
    7: "http://example.com.evil.example/a.jpg",
    8: "http://evil.example/http://example.com/",
    9: "http://[::1]:80/a.jpg",
    10: "http://example.com@evil.example/a.jpg",
    11: None,
    12: "http://a.b.img.example.com?x",
}


def pairs(connection: duckdb.DuckDBPyConnection) -> None:
    """Image n has pairs 100 n and 100 n + 1."""
    rows = [
        {
            "sample_id": 100 * number + part,
            "image_id": number,
            "url": url,
            "sha256": f"{number:064x}",
            "md5": f"{number:032x}",
        }
        for number, url in HOSTS.items()
        for part in (0, 1)
    ]
    connection.register("listed_pairs", pa.Table.from_pylist(rows))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("host:example.com", {1, 2, 6, 12}),
        ("HOST: Example.com.", {1, 2, 6, 12}),
        ("host:img.example.com", {2, 12}),
        ("host:b\u00dccher.example", {4, 5}),
        ("host:xn--bcher-kva.example", {4, 5}),
        ("host:[::1]", {9}),
        ("host:evil.example", {7, 8, 10}),
        ("host:com", {1, 2, 3, 6, 12}),
        (f"{10:064X}", {10}),
        (f"{10:032X}", {10}),
        ("http://evil.example/http://example.com/", {8}),
        ("1101", {11}),
        ("11", {11}),
        ("host:nowhere.example", set()),
    ],
)
def test_every_kind_of_entry(tmp_path: Path, line: str, expected: set[int]) -> None:
    (tmp_path / "list.txt").write_text(line + "\n")
    with duckdb.connect() as connection:
        pairs(connection)
        counts = blocked_rows(connection, [tmp_path / "list.txt"], "listed_pairs")
        found = {row[0] for row in connection.table("blocked").fetchall()}
    assert found == expected
    assert counts == BlockedCounts(entries=1, unmatched=int(not expected), blocked=len(expected))


def test_all_columns_of_one_file_and_what_a_later_stage_knows(tmp_path: Path) -> None:
    columns = {
        "image_id": [1, None, None, None, None, None],
        "sample_id": [None, 201, None, None, None, None],
        "url": [None, None, HOSTS[3], None, None, None],
        "host": [None, None, None, "evil.example", None, None],
        "sha256": [None, None, None, None, f"{9:064x}", None],
        "md5": [None, None, None, None, None, f"{1:032x}"],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with duckdb.connect() as connection:
        pairs(connection)
        counts = blocked_rows(connection, [tmp_path / "list.parquet"], "listed_pairs")
        found = dict(connection.table("blocked").fetchall())
        assert counts == BlockedCounts(entries=6, unmatched=0, blocked=7)
        expected = {1: "image_id", 2: "sample_id", 3: "url", 7: "host", 8: "host", 9: "sha256", 10: "host"}
        assert found == expected
        # Before the download nobody knows whose bytes have which hash.
        connection.execute("CREATE VIEW early AS SELECT image_id, sample_id, url FROM listed_pairs")
        with pytest.raises(BlocklistError, match="1 entries of kind md5, but nothing says"):
            blocked_rows(connection, [tmp_path / "list.parquet"], "early")
        counts = blocked_rows(connection, [tmp_path / "list.parquet"], "early", later=("sha256", "md5"))
        assert counts == BlockedCounts(entries=6, unmatched=2, blocked=6)


@pytest.mark.parametrize(
    "written", ["", " ", "a b", "a/b", "http://a", "a:80", "..", "a..b", "\u2028", "x" * 300 + "\u00fc"]
)
def test_what_is_no_host(written: str) -> None:
    assert normal_host(written) == ""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.source.stage import import_pairs
from pipeline.storage.result import StageResult

URLS = [f"http://example.com/{number}.jpg" for number in range(25)]
CAPTIONS = [f"picture {number}" for number in range(25)]


def run(root: Path, *lists: Path, **options: object) -> StageResult:
    config = SourceConfig(lists=[str(path) for path in lists], **{"samples_per_shard": 10} | options)
    return import_pairs(root, config, QueryConfig(), lists=config.lists)


def rows(result: StageResult) -> list[dict]:
    return [row for path in result.parquet("source_pairs") for row in pq.read_table(path).to_pylist()]


def parquet(path: Path, urls: list, captions: list) -> Path:
    pq.write_table(pa.table({"URL": pa.array(urls, pa.string()), "TEXT": pa.array(captions, pa.string())}), path)
    return path


def image_id(name: str) -> int:
    return int.from_bytes(hashlib.md5(name.encode()).digest()[8:], "little") - 2**63


def expected_id(url: str, caption: str) -> int:
    return image_id(f"{url}\x1f{caption}")


def test_ids_are_the_documented_hash_and_shards_are_full(tmp_path: Path) -> None:
    result = run(tmp_path / "root", parquet(tmp_path / "list.parquet", URLS, CAPTIONS))
    found = rows(result)
    assert {row["sample_id"] for row in found} == {expected_id(*pair) for pair in zip(URLS, CAPTIONS)}
    assert {row["image_id"] for row in found} == set(map(image_id, URLS))
    assert [pq.read_metadata(path).num_rows for path in result.parquet("source_pairs")] == [10, 10, 5]


def test_order_and_division_of_the_lists_change_no_id(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", parquet(tmp_path / "whole.parquet", URLS, CAPTIONS))
    halves = [
        parquet(tmp_path / "second.parquet", URLS[:12][::-1], CAPTIONS[:12][::-1]),
        parquet(tmp_path / "first.parquet", URLS[12:], CAPTIONS[12:]),
    ]
    divided = run(tmp_path / "b", *halves)
    key = lambda row: row["image_id"]  # noqa: E731
    assert sorted(rows(whole), key=key) == sorted(rows(divided), key=key)
    shuffled = run(tmp_path / "c", parquet(tmp_path / "shuffled.parquet", URLS[::-1], CAPTIONS[::-1]))
    assert rows(whole) == rows(shuffled)


def test_a_list_added_at_the_end_leaves_earlier_shards_alone(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", URLS[:20], CAPTIONS[:20])
    before = [path.read_bytes() for path in run(tmp_path / "root", first).parquet("source_pairs")]
    added = parquet(tmp_path / "0.parquet", URLS[10:], CAPTIONS[10:])
    after = [path.read_bytes() for path in run(tmp_path / "root", first, added).parquet("source_pairs")]
    assert after[:2] == before
    assert len(after) == 3


def test_formats_agree(tmp_path: Path) -> None:
    reference = rows(run(tmp_path / "parquet", parquet(tmp_path / "list.parquet", URLS, CAPTIONS)))
    table = pa.table({"URL": URLS, "TEXT": CAPTIONS})
    pacsv.write_csv(table, tmp_path / "list.csv")
    lines = ["URL\tTEXT", *(f"{url}\t{caption}" for url, caption in zip(URLS, CAPTIONS))]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    (tmp_path / "list.json").write_text(json.dumps(table.to_pylist()))
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    for ending in ("csv", "tsv", "json", "jsonl"):
        assert rows(run(tmp_path / ending, tmp_path / f"list.{ending}")) == reference, ending


def test_repeats_and_unusable_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    urls = [*URLS, URLS[0], URLS[0], "file:///etc/passwd", None, "not a url", URLS[1]]
    captions = [*CAPTIONS, CAPTIONS[0], CAPTIONS[0], "a", "b", "c", "  "]
    result = run(tmp_path / "root", parquet(tmp_path / "list.parquet", urls, captions))
    # A file:// URL is a URL; it is for the download to refuse it.
    assert result.rows == 26
    counts = {"listed": 31, "captions": 31, "unusable": 3, "filtered": 0, "exact_repeats": 2, "id_collisions": 0}
    assert result.stats == counts | {"image_id_collisions": 0, "images": 26, "pairs": 26, "bad_lines": 0}


def test_a_collision_is_resolved_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.core import query

    original = query.sql
    # Only eight different first ids, so that most pairs collide; salted ids keep all their bits.
    weak = "CASE WHEN salt = '' THEN (md5_number_lower(url) % 8)::BIGINT ELSE 1000 + (md5_number_lower("
    weak += "concat(url, caption, salt)) % 1000000007)::BIGINT END"

    def patched(package: str, name: str) -> str:
        text = original(package, name)
        if name != "source_macros":
            return text
        start = text.index("(md5_number_lower(concat(url, chr(31)")
        text = text[:start] + weak + text[text.index(";", start) :]
        start = text.index("(md5_number_lower(concat(name, salt)")
        return text[:start] + weak.replace("url", "name").replace("caption, ", "") + text[text.index(";", start) :]

    monkeypatch.setattr(query, "sql", patched)
    result = run(tmp_path / "root", parquet(tmp_path / "list.parquet", URLS, CAPTIONS))
    assert result.stats["id_collisions"] >= 17
    assert result.stats["image_id_collisions"] >= 17
    for column in ("sample_id", "image_id"):
        assert len({row[column] for row in rows(result)}) == 25
    # Which of two keeps the id does not depend on the order of the lists.
    turned = run(tmp_path / "turned", parquet(tmp_path / "turned.parquet", URLS[::-1], CAPTIONS[::-1]))
    assert rows(turned) == rows(result)


def test_limit_takes_the_smallest_ids(tmp_path: Path) -> None:
    path = parquet(tmp_path / "list.parquet", URLS, CAPTIONS)
    everything = sorted(row["image_id"] for row in rows(run(tmp_path / "a", path)))
    assert [row["image_id"] for row in rows(run(tmp_path / "b", path, limit=7))] == everything[:7]


def test_bad_lists_are_named(tmp_path: Path) -> None:
    good = parquet(tmp_path / "list.parquet", URLS, CAPTIONS)
    cases = {
        "no such file": lambda: run(tmp_path / "r", tmp_path / "missing.parquet"),
        r"no column \['url'\]; it has \['URL', 'TEXT'\]": lambda: run(tmp_path / "r", good, url_column="url"),
        "format not known": lambda: run(tmp_path / "r", _text(tmp_path / "list.dat", "x")),
        "no usable pair": lambda: run(tmp_path / "r", parquet(tmp_path / "e.parquet", [], [])),
        "no usable pair in .*: 0 rows": lambda: run(tmp_path / "r", _text(tmp_path / "head.csv", "URL,TEXT\n")),
        r"empty\.csv: (cannot be read|no column)": lambda: run(tmp_path / "r", _text(tmp_path / "empty.csv", "")),
        "1 of them without": lambda: run(tmp_path / "r", parquet(tmp_path / "f.parquet", ["//x/y"], ["a"])),
        "cannot be read": lambda: run(tmp_path / "r", _text(tmp_path / "broken.parquet", "not parquet")),
    }
    for message, call in cases.items():
        with pytest.raises(SourceError, match=message):
            call()
    assert not list((tmp_path / "r").glob("source_pairs/*"))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_a_hash_is_no_comment_and_late_quotes_are_quotes(tmp_path: Path, ending: str) -> None:
    """DuckDB would judge the dialect by the first 20,480 rows, and take what begins with # for comments after one line
    that is ragged."""
    count = 25_000
    captions = [f"#tag {number}" if number % 2 else f"picture {number}" for number in range(count)]
    captions[-1] = 'a "quoted" word, and a comma'
    path = tmp_path / f"list.{ending}"
    separator = "\t" if ending == "tsv" else ","

    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if ending == "csv" and "," in text else text

    lines = [f"http://example.com/{number}{separator}{field(caption)}" for number, caption in enumerate(captions)]
    path.write_text(f"URL{separator}TEXT\n" + "\n".join(lines) + "\n")
    result = run(tmp_path / "root", path, samples_per_shard=10_000)
    assert result.stats["listed"] == result.rows == count
    assert sorted(row["caption"] for row in rows(result)) == sorted(captions)


def test_a_lone_quote_in_a_tsv_is_a_character(tmp_path: Path) -> None:
    captions = [f'"{number} inch' if number % 3 == 0 else f"{number}" for number in range(1000)]
    path = tmp_path / "list.tsv"
    path.write_text("URL\tTEXT\n" + "".join(f"http://example.com/{n}\t{c}\n" for n, c in enumerate(captions)))
    result = run(tmp_path / "root", path)
    assert result.rows == 1000 and sorted(row["caption"] for row in rows(result)) == sorted(captions)


def test_a_ragged_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("URL,TEXT\nhttp://example.com/1,one\n# a,b,c,d\nhttp://example.com/2,two\n")
    with pytest.raises(SourceError, match="line 3: 4 fields, not 2"):
        run(tmp_path / "root", path)


def test_a_tsv_with_quotes_is_read_where_the_config_says_so(tmp_path: Path) -> None:
    table = pa.table({"URL": URLS, "TEXT": CAPTIONS})
    pacsv.write_csv(table, tmp_path / "list.tsv", pacsv.WriteOptions(delimiter="\t"))
    with pytest.raises(SourceError, match=r"if its fields are quoted, set source\.quote"):
        run(tmp_path / "root", tmp_path / "list.tsv")
    table = pa.table({"URL": URLS, "TEXT": [f'{caption}\t"so"' for caption in CAPTIONS]})
    pacsv.write_csv(table, tmp_path / "list.tsv", pacsv.WriteOptions(delimiter="\t"))
    found = rows(run(tmp_path / "root", tmp_path / "list.tsv", quote='"'))
    assert sorted(row["caption"] for row in found) == sorted(table["TEXT"].to_pylist())

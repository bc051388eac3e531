"""Names of lists: files are files, whatever their names look like."""

import gzip
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.source.stage import import_pairs
from tests.pipeline.source.test_source import CAPTIONS, URLS, parquet, rows, run

NAMES = ["a[1]", "a?", "a*", "[", "a::b", "memory::a", "with space", "it's", "a[b]c*?"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_a_name_with_signs_is_one_file(tmp_path: Path, name: str, ending: str) -> None:
    # Others that a pattern of that name would find.
    for other in ("a1", "ax", "aXc", "abc12"):
        parquet(tmp_path / f"{other}.parquet", ["http://wrong/1"], ["wrong"])
        (tmp_path / f"{other}.csv").write_text("URL,TEXT\nhttp://wrong/1,wrong\n")
        (tmp_path / f"{other}.json").write_text('{"URL": "http://wrong/1", "TEXT": "wrong"}')
    path = tmp_path / f"{name}.{ending}"
    if ending == "parquet":
        parquet(path, ["http://right/1"], ["right"])
    else:
        path.write_text(
            "URL,TEXT\nhttp://right/1,right\n" if ending == "csv" else '{"URL":"http://right/1","TEXT":"right"}'
        )
    assert [row["caption"] for row in rows(run(tmp_path / "root", path))] == ["right"]


def test_a_glob_finds_files_with_signs_in_their_names(tmp_path: Path) -> None:
    parquet(tmp_path / "part[0].parquet", URLS[:10], CAPTIONS[:10])
    parquet(tmp_path / "part[1].parquet", URLS[10:], CAPTIONS[10:])
    assert run(tmp_path / "root", tmp_path / "*.parquet").rows == 25


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is a folder; name the files in it, such as .*/\*\.parquet"):
        run(tmp_path / "root", tmp_path)


def test_lists_elsewhere_are_read_in_each_format(tmp_path: Path) -> None:
    elsewhere = fsspec.filesystem("memory")
    table = pa.table({"URL": URLS, "TEXT": CAPTIONS})
    with elsewhere.open("/lists/a.parquet", "wb") as file:
        pq.write_table(table, file)
    lines = ["URL,TEXT", *(f"{url},{caption}" for url, caption in zip(URLS, CAPTIONS))]
    elsewhere.pipe("/lists/b.csv.gz", gzip.compress("\n".join(lines).encode()))
    elsewhere.pipe("/lists/c.tsv", "\n".join(lines).replace(",", "\t").encode())
    elsewhere.pipe("/lists/d.jsonl", "\n".join(map(json.dumps, table.to_pylist())).encode())
    elsewhere.pipe("/lists/e.json", json.dumps(table.to_pylist()).encode())
    config = SourceConfig(lists=["memory://lists/*"], samples_per_shard=10)
    result = import_pairs(tmp_path / "root", config, QueryConfig(), lists=config.lists)
    assert result.rows == 25 and result.stats["listed"] == 125 and result.stats["exact_repeats"] == 100

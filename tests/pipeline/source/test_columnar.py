"""Parquet: columns by their exact names, values of their own types, or refused by name and type."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from tests.pipeline.source.test_records import captions
from tests.pipeline.source.test_source import rows, run


def test_bytes_in_parquet_are_utf8_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    values = ["café".encode(), b"\xff\xfe", None, "日本".encode()]
    urls = [f"http://x/{number}".encode() for number in range(4)]
    for type_ in (pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"URL": pa.array(urls, type_), "TEXT": pa.array(values, type_)}), path)
        with pytest.raises(SourceError, match=r"1 of TEXT: no text of UTF-8, such as '\\\\xFF\\\\xFE'"):
            run(tmp_path / "root", path)
        result = run(tmp_path / f"root-{type_}", path, skip_bad_lines=True)
        assert result.stats["bad_lines"] == 1 and result.stats["listed"] == 3
        assert sorted(row["caption"] for row in rows(result)) == ["café", "日本"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([[1, 2]]), "column 'TEXT' holds list<.*>, not text; store texts in it"),
        (pa.array([{"en": "a"}]), "holds struct<.*>, not text; store one of its fields"),
        (pa.array([1.5]), "holds double, not text"),
        (pa.array([20200101]), "holds int64, not text"),
    ],
)
def test_other_types_in_parquet_are_refused_by_name(tmp_path: Path, values: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"URL": ["http://x/1"], "TEXT": values}), tmp_path / "list.parquet")
    with pytest.raises(SourceError, match=message):
        run(tmp_path / "root", tmp_path / "list.parquet")


def test_columns_of_parquet_are_those_of_their_exact_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["no"]), pa.array(["http://x/1"]), pa.array(["yes"]), pa.array(["no"]).dictionary_encode()],
        names=["url", "URL", "TEXT", "text"],
    )
    pq.write_table(table, tmp_path / "list.parquet")
    assert captions(tmp_path, tmp_path / "list.parquet") == ["yes"]
    assert SourceConfig().content().keys() == {"format", "url_column", "caption_column", "samples_per_shard", "limit"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([["a"]]), r"column 'x' holds list<.*>, not one value; store what is needed"),
        (pa.array([{"en": "a"}]), r"holds struct<.*>, not one value"),
        (pa.array([1], pa.duration("us")), r"holds duration\[us\], which has no type in DuckDB"),
        (pa.array([1], pa.decimal256(50, 2)), r"holds decimal256\(50, 2\), which has no type in DuckDB"),
        (pa.array([1], pa.timestamp("ns", "UTC")), "nanoseconds with a time zone"),
        (pa.array([1], pa.time64("us")), r"holds time64\[us\]; write its type in source.columns"),
    ],
)
def test_types_that_cannot_be_carried_are_refused_by_name(tmp_path: Path, values: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"URL": ["http://x/1"], "TEXT": ["a"], "x": values}), tmp_path / "list.parquet")
    for where in (["x"], ["x::VARCHAR"])[: 1 if "write its type" in message else 2]:
        with pytest.raises(SourceError, match=message):
            run(tmp_path / "root", tmp_path / "list.parquet", columns=where)

"""JSON: values as they are written, whatever the first thousands of rows hold, or refused by name."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SourceError
from tests.pipeline.source.test_source import rows, run

_CAPTION = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


def captions(tmp_path: Path, path: Path, **options: Any) -> list[str]:
    """Captions of the pairs of one list, by URL."""
    root = tmp_path / f"root-{len(list(tmp_path.iterdir()))}"
    return [row["caption"] for row in sorted(rows(run(root, path, **options)), key=lambda row: row["url"])]


def lines(path: Path, values: list[Any]) -> Path:
    path.write_text(
        "".join(json.dumps({"URL": f"http://x/{n:06}", "TEXT": value}) + "\n" for n, value in enumerate(values))
    )
    return path


def _is_space(character: str) -> bool:
    """Spaces of whatever width, and what ends lines: a caption of nothing else is none."""
    return character in "\t\n\r\f\v\x85" or unicodedata.category(character) in ("Zs", "Zl", "Zp")


@example(values=["0", "\xa0"], ascii=False, kind="lines")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(_CAPTION, min_size=1, max_size=12),
    ascii=st.booleans(),
    kind=st.sampled_from(["lines", "array", "parquet", "binary"]),
)
def test_captions_come_back_equal(tmp_path: Path, values: list[str], ascii: bool, kind: str) -> None:
    urls = [f"http://x/{number:02}" for number in range(len(values))]
    objects = [{"URL": url, "other": [1, {"TEXT": "no"}], "TEXT": value} for url, value in zip(urls, values)]
    path = tmp_path / ("list.parquet" if kind in ("parquet", "binary") else "list.json")
    if kind == "lines":
        path.write_text("\n".join(json.dumps(found, ensure_ascii=ascii) for found in objects), encoding="utf-8")
    elif kind == "array":
        path.write_text(json.dumps(objects, ensure_ascii=ascii, indent=1), encoding="utf-8")
    else:
        type_ = pa.string() if kind == "parquet" else pa.binary()
        column = pa.array([value.encode() if kind == "binary" else value for value in values], type_)
        pq.write_table(pa.table({"URL": urls, "TEXT": column}), path)
    expected = [value for value in values if not all(map(_is_space, value))]
    if not expected:
        return
    assert captions(tmp_path, path) == expected


def test_captions_after_thousands_of_nulls_are_read(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.jsonl", [None] * 25_000 + ["late", 2020, "2020-01-02", "00:10", True, "[1]"])
    result = run(tmp_path / "root", path)
    assert result.stats["listed"] == 25_006 and result.stats["unusable"] == 25_000
    assert sorted(row["caption"] for row in rows(result)) == ["00:10", "2020", "2020-01-02", "[1]", "late", "true"]


def test_values_that_are_no_text_are_refused_by_type_or_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "list.jsonl", ["good", ["a", 1.5], {"en": "a"}, 1.5, "fine"])
    with pytest.raises(SourceError, match=r"1 of TEXT: ARRAY of DOUBLE, 1 of TEXT: DOUBLE, 1 of TEXT: OBJECT"):
        run(tmp_path / "root", path)
    path.write_text(path.read_text() + '{"URL": bad}\n[1]\n"x"\n')
    with pytest.raises(SourceError, match="1 of no JSON"):
        run(tmp_path / "root", path)
    result = run(tmp_path / "root", path, skip_bad_lines=True)
    assert result.rows == 2 and result.stats["bad_lines"] == 6 and result.stats["listed"] == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"URL": "http://x/1", "TEXT": "a"},', "JSON array is cut off"),
        (b'\xef\xbb\xbf{"URL": "http://x/1", "TEXT": "a"}', "byte order mark.*utf-8-sig"),
        ('{"URL": "http://x/1", "TEXT": "a"}'.encode("utf-16"), "byte order mark.*utf-16"),
        (b'{"URL": "http://x/1"}\n', r"no column \['TEXT'\]; none of its objects has that key"),
        (b'{\n"URL": "http://x/1", "TEXT": "a"}\n', "no JSON|one line"),
        (b'{"URL": "http://x/1", "TEXT": "a"}{"URL": "http://x/2", "TEXT": "b"}\n', "no JSON|one line"),
    ],
)
def test_what_is_wrong_with_json_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "list.json").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        run(tmp_path / "root", tmp_path / "list.json")


def test_json_in_another_encoding_is_read_where_the_config_says_so(tmp_path: Path) -> None:
    text = '{"URL": "http://x/1", "TEXT": "café"}\n'
    for encoding in ("utf-8-sig", "utf-16", "latin-1"):
        (tmp_path / "list.jsonl").write_bytes(text.encode(encoding))
        assert captions(tmp_path, tmp_path / "list.jsonl", encoding=encoding) == ["café"]


def test_keys_are_keys_and_no_paths(tmp_path: Path) -> None:
    content = {"a/b": "http://x/1", "$.x~y": "right", "a": {"b": "wrong"}}
    (tmp_path / "list.json").write_text(json.dumps([content]))
    found = captions(tmp_path, tmp_path / "list.json", url_column="a/b", caption_column="$.x~y")
    assert found == ["right"]

"""CSV and TSV in every dialect that is claimed: what was written comes back, or the error says where and what helps."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SourceError
from pipeline.source.config import SourceConfig
from pipeline.source.delimited import insert_delimited
from pipeline.source.listed import find_lists
from tests.pipeline.source.test_source import rows, run

URL = "http://example.com/{}.jpg"


def read(path: Path, **options: Any) -> list[tuple[str | None, str | None]]:
    """URLs and captions of one list, in the order of its lines."""
    config = SourceConfig(lists=[str(path)], **options)
    (listed,) = find_lists(config.lists, config)
    with duckdb.connect() as connection:
        connection.execute("CREATE TEMP TABLE source_rows (url VARCHAR, caption VARCHAR, list_index BIGINT)")
        _, read.bad = insert_delimited(connection, listed, config, list_index=0)  # type: ignore[attr-defined]
        return connection.execute("SELECT url, caption FROM source_rows").fetchall()


# Whatever a text of UTF-8 may hold; a null character alone is not one for DuckDB's Parquet side.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
_FIELDS = st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=_FIELDS,
    delimiter=st.sampled_from([",", ";", "|", "\t"]),
    escape=st.sampled_from([None, "\\"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
    header=st.booleans(),
    packed=st.booleans(),
)
def test_a_quoted_table_comes_back_equal(  # noqa: PLR0917 - one for each choice
    tmp_path: Path, fields: list, delimiter: str, escape: str | None, ending: str, encoding: str, header: bool,
    packed: bool,
) -> None:  # fmt: skip
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL, doublequote=escape is None,
        escapechar=escape,
    )  # fmt: skip
    writer.writerows([("TEXT", "URL")] * header + [(caption, url) for url, caption in fields])
    data = text.getvalue().encode(encoding)
    path = tmp_path / f"list.csv{'.gz' * packed}"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = read(
        path, delimiter=delimiter, escape=escape, encoding=encoding, column_names=None if header else ["TEXT", "URL"]
    )
    # An empty field is one without a value: neither makes a pair.
    assert [(url or "", caption or "") for url, caption in found] == fields


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=_FIELDS, ending=st.sampled_from(["\n", "\r\n"]), encoding=st.sampled_from(["utf-8", "utf-16"]))
def test_a_table_without_quotes_comes_back_equal(tmp_path: Path, fields: list, ending: str, encoding: str) -> None:
    plain = [tuple("".join(c for c in part if c not in "\t\r\n") for part in pair) for pair in fields]
    text = f"URL\tTEXT{ending}" + "".join(f"{url}\t{caption}{ending}" for url, caption in plain)
    (tmp_path / "list.tsv").write_bytes(text.encode(encoding))
    found = read(tmp_path / "list.tsv", encoding=encoding)
    assert [(url or "", caption or "") for url, caption in found] == plain


def test_a_first_quoted_field_after_thousands_of_lines_is_quoted(tmp_path: Path) -> None:
    lines = [f"{URL.format(number)},plain {number}" for number in range(30_000)]
    lines.append(f'{URL.format("last")},"a ""late"" quote, and a comma"')
    (tmp_path / "list.csv").write_text("URL,TEXT\n" + "\n".join(lines))
    found = read(tmp_path / "list.csv")
    assert len(found) == 30_001 and found[-1] == (URL.format("last"), 'a "late" quote, and a comma')


def test_ragged_lines_are_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"URL,TEXT\n{URL.format(1)},one\n# a,b,c,d\n\n{URL.format(2)},two\nalone\n{URL.format(3)},a,b\n")
    with pytest.raises(
        SourceError, match=r"3 lines are not like the others; line 3: 4 fields, not 2: '# a \| b \| c \| d';.*skip_bad"
    ):
        read(path)
    assert read(path, skip_bad_lines=True) == [(URL.format(1), "one"), (URL.format(2), "two")]
    assert read.bad == 3  # type: ignore[attr-defined]
    result = run(tmp_path / "root", path, skip_bad_lines=True)
    assert result.rows == result.stats["listed"] == 2 and result.stats["bad_lines"] == 3


@pytest.mark.parametrize("skip", [False, True])
def test_a_quotation_mark_that_is_never_closed_is_an_error(tmp_path: Path, skip: bool) -> None:
    """Otherwise all lines after it would count as one that was dropped."""
    path = tmp_path / "list.csv"
    path.write_text("URL,TEXT\n" + f'{URL.format(1)},"never closed\n' + f"{URL.format(2)},two\n" * 500)
    with pytest.raises(SourceError, match="never closed"):
        read(path, skip_bad_lines=skip)


def test_text_after_a_closing_quotation_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f'URL,TEXT\n{URL.format(1)},"5" pipe\n{URL.format(2)},two\n')
    with pytest.raises(SourceError, match="line 2: ',' expected after"):
        read(path)
    assert read(path, skip_bad_lines=True) == [(URL.format(2), "two")]


def test_line_ends_may_differ(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b'URL,TEXT\r\nhttp://x/1,"a\nb"\nhttp://x/2,"c\r\nd"\rhttp://x/3,e')
    expected = [("http://x/1", "a\nb"), ("http://x/2", "c\r\nd"), ("http://x/3", "e")]
    assert read(tmp_path / "list.csv") == expected


def test_quotation_marks_within_a_field_are_characters(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f'URL,TEXT\n{URL.format(1)},5" pipe\n{URL.format(2)},"6"" pipe"\n')
    assert [caption for _, caption in read(tmp_path / "list.csv")] == ['5" pipe', '6" pipe']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("URL\tTEXT\nhttp://x/1\tone\rtwo\n", "line 3: 1 fields, not 2: 'two'"),
        ("http://x/1\tone\nhttp://x/2\ttwo\n", "that is no header line: name the columns by source.column_names"),
        ('"URL"\t"TEXT"\n"http://x/1"\t"one"\n', r"set source\.quote"),
        ("URL\tTEXT\tTEXT\nhttp://x/1\ta\tb\n", "2 columns are named 'TEXT'"),
        ("url\ttext\nhttp://x/1\ta\n", r"no column \['URL'\]; it has \['url', 'text'\]"),
        ("", "has no header line"),
        ("\n\n", "has no header line"),
    ],
)
def test_what_is_wrong_with_a_tsv_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.tsv").write_bytes(text.encode())
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "list.tsv")


def test_names_that_differ_in_case_alone_are_two_columns(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,URL,text,TEXT\nwrong,http://x/1,wrong,right\n")
    assert read(tmp_path / "list.csv") == [("http://x/1", "right")]


def test_encodings_are_said(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("URL,TEXT\nhttp://x/1,café\n".encode("cp1252"))
    with pytest.raises(SourceError, match=r"line 2: not utf-8; see source\.encoding"):
        read(path)
    assert read(path, encoding="cp1252") == read(path, encoding="latin-1") == [("http://x/1", "café")]
    with pytest.raises(SourceError, match="line 2: not ascii"):
        read(path, encoding="ascii")
    path.write_bytes("URL,TEXT\nhttp://x/1,café\n".encode("utf-16"))
    with pytest.raises(SourceError, match=r"set source\.encoding"):
        read(path)
    with pytest.raises(ValueError, match="no encoding 'utf-99'"):
        SourceConfig(encoding="utf-99")


def test_a_caption_of_three_million_characters_is_read(tmp_path: Path) -> None:
    caption = "x" * 3_000_000
    (tmp_path / "list.csv").write_text(f'URL,TEXT\nhttp://x/1,"{caption}"\nhttp://x/2,two\n')
    (tmp_path / "list.tsv").write_text(f"URL\tTEXT\nhttp://x/1\t{caption}\nhttp://x/2\ttwo\n")
    for ending in ("csv", "tsv"):
        assert read(tmp_path / f"list.{ending}") == [("http://x/1", caption), ("http://x/2", "two")]


def test_signs_that_contradict_each_other_are_refused() -> None:
    for options in ({"delimiter": '"', "quote": '"'}, {"delimiter": "\n"}, {"column_names": ["URL", "URL"]}):
        with pytest.raises(ValueError, match=r"delimiter|twice"):
            SourceConfig(**options)  # type: ignore[arg-type]


def test_a_list_without_header_makes_pairs(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a dog\thttp://x/1\na cat\thttp://x/2\n")
    found = rows(run(tmp_path / "root", tmp_path / "cc3m.tsv", column_names=["TEXT", "URL"]))
    assert {(row["url"], row["caption"]) for row in found} == {("http://x/1", "a dog"), ("http://x/2", "a cat")}

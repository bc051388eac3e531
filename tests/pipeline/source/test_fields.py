"""Captions, one or several, and carried columns: in every format the same, or refused by name."""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from pipeline.storage.result import StageResult
from tests.pipeline.source.test_source import rows, run

FORMATS = ["parquet", "csv", "tsv", "jsonl", "json"]


def table(path: Path, found: list[dict[str, Any]]) -> Path:
    """A list of the format that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(found)
    else:
        path.write_text(json.dumps(found) if path.suffix == ".json" else "\n".join(map(json.dumps, found)))
    return path


def attributes(result: StageResult) -> list[dict[str, Any]]:
    return [row for path in result.parquet("source_attributes") for row in pq.read_table(path).to_pylist()]


def pairs(result: StageResult) -> set[tuple[str, str]]:
    return {(row["url"], row["caption"]) for row in rows(result)}


@pytest.mark.parametrize("ending", FORMATS)
def test_several_caption_columns(tmp_path: Path, ending: str) -> None:
    found = [
        {"URL": "http://x/1", "en": "a dog", "de": "ein Hund", "similarity": "1"},
        {"URL": "http://x/2", "en": None, "de": "eine Katze", "similarity": "2"},
        {"URL": "http://x/3", "en": " ", "de": None, "similarity": "3"},
        {"URL": None, "en": "x", "de": "y", "similarity": "4"},
    ]
    path = table(tmp_path / f"a.{ending}", found)
    result = run(tmp_path / "root", path, caption_columns=["en", "de"], columns=["similarity"])
    assert pairs(result) == {("http://x/1", "a dog"), ("http://x/1", "ein Hund"), ("http://x/2", "eine Katze")}
    assert [row["similarity"] for row in attributes(result)] == [row["url"][-1] for row in rows(result)]
    counts = result.stats
    assert (counts["listed"], counts["captions"], counts["unusable"], counts["pairs"]) == (4, 8, 5, 3)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json"])
def test_a_list_of_texts_is_several_captions(tmp_path: Path, ending: str) -> None:
    found = [
        {"URL": "http://x/1", "TEXT": ["one", None, ' "t\\wo"', " ", "one"]},
        {"URL": "http://x/2", "TEXT": []},
        {"URL": "http://x/3", "TEXT": None},
        {"URL": "http://x/4", "TEXT": ["four"]},
    ]
    path = table(tmp_path / f"a.{ending}", found)
    result = run(tmp_path / "root", path)
    assert pairs(result) == {("http://x/1", "one"), ("http://x/1", ' "t\\wo"'), ("http://x/4", "four")}
    counts = result.stats
    assert (counts["listed"], counts["captions"], counts["unusable"], counts["exact_repeats"]) == (4, 8, 4, 1)
    more = run(tmp_path / "more", path, caption_columns=["TEXT", "URL"])
    assert ("http://x/2", "http://x/2") in pairs(more) and len(pairs(more)) == 7 and more.stats["listed"] == 4


def test_a_text_and_an_array_may_stand_in_one_list(tmp_path: Path) -> None:
    found = [{"URL": "http://x/1", "TEXT": "[1]"}, {"URL": "http://x/2", "TEXT": ["a", 2]}]
    assert pairs(run(tmp_path / "root", table(tmp_path / "a.jsonl", found))) == {
        ("http://x/1", "[1]"), ("http://x/2", "a"), ("http://x/2", "2"),
    }  # fmt: skip


LAION = [
    {"URL": f"http://x/{n}", "TEXT": f"t{n}", "similarity": n / 8, "NSFW": "UNLIKELY", "width": n, "ok": n % 2 == 0}
    for n in range(25)
]
TYPED = ["similarity::DOUBLE", "NSFW", "width::INTEGER", "ok::BOOLEAN"]


@pytest.mark.parametrize("ending", FORMATS)
def test_columns_are_carried_in_every_format(tmp_path: Path, ending: str) -> None:
    result = run(tmp_path / "root", table(tmp_path / f"a.{ending}", LAION), columns=TYPED)
    names = ["similarity", "NSFW", "width", "ok"]
    for path, beside in zip(result.parquet("source_attributes"), result.parquet("source_pairs"), strict=True):
        assert path.name == beside.name
        found = pq.read_table(path)
        types = [pa.int64(), pa.int64(), pa.float64(), pa.string(), pa.int32(), pa.bool_()]
        assert found.schema.names == ["sample_id", "image_id", *names] and found.schema.types == types
        for row, pair in zip(found.to_pylist(), pq.read_table(beside).to_pylist(), strict=True):
            assert (row["sample_id"], row["image_id"]) == (pair["sample_id"], pair["image_id"])
            expected = LAION[int(pair["url"].rsplit("/", 1)[1])]
            assert [row[name] for name in names] == [expected[name] for name in names]
    assert result.stats["attribute_conflicts"] == 0 and result.rows == 25


def test_without_a_type_parquet_has_its_own_and_the_others_have_text(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "d": Decimal("1.50"), "day": datetime.date(2020, 1, 2), "at": datetime.datetime(2020, 1, 2, 3), "f": 0.5,
        "n": 3, "b": True, "s": "x",
    }  # fmt: skip
    arrays = {name: pa.array([value]) for name, value in values.items()} | {
        "small": pa.array([3], pa.uint8()), "half": pa.array([0.5], pa.float16()), "bytes": pa.array([b"caf\xc3\xa9"]),
        "words": pa.array(["w"]).dictionary_encode(), "utc": pa.array([0], pa.timestamp("us", "Europe/Berlin")),
    }  # fmt: skip
    pq.write_table(pa.table({"URL": ["http://x/1"], "TEXT": ["a"], **arrays}), tmp_path / "a.parquet")
    (row,) = attributes(run(tmp_path / "root", tmp_path / "a.parquet", columns=list(arrays)))
    assert {name: row[name] for name in values} == values
    assert (row["small"], row["half"], row["bytes"], row["words"]) == (3, 0.5, "café", "w")
    assert row["utc"].isoformat() == "1970-01-01T00:00:00+00:00"
    found = [{"URL": "http://x/1", "TEXT": "a", "n": 3, "f": 0.25, "big": 123456789012345678901234, "b": True}]
    (row,) = attributes(run(tmp_path / "json", table(tmp_path / "a.jsonl", found), columns=["n", "f", "big", "b"]))
    assert (row["n"], row["f"], row["big"], row["b"]) == ("3", "0.25", "123456789012345678901234", "true")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_value_that_cannot_be_cast_is_named_or_counted(tmp_path: Path, ending: str) -> None:
    found = [{"URL": f"http://x/{n}", "TEXT": "a", "p": p, "q": q} for n, (p, q) in enumerate(
        [("0.5", "1"), ("high", "2"), (None, "3"), ("low", "many"), ("1e-1", None)]
    )]  # fmt: skip
    path = table(tmp_path / f"a.{ending}", found)
    columns = ["p::DOUBLE", "q::UTINYINT"]
    with pytest.raises(SourceError, match=rf"a\.{ending}: .*p: no DOUBLE.*'(high|low)'.*skip_bad_lines"):
        run(tmp_path / "root", path, columns=columns)
    result = run(tmp_path / "root", path, columns=columns, skip_bad_lines=True)
    assert result.stats["bad_lines"] == 2 and result.stats["listed"] == 3
    assert sorted((row["p"] or 0, row["q"] or 0) for row in attributes(result)) == [(0, 3), (0.1, 0), (0.5, 1)]


def test_of_rows_that_differ_the_first_list_and_its_smallest_row_is_carried(tmp_path: Path) -> None:
    one = {"URL": "http://x/1", "TEXT": "a"}
    several = [one | {"s": s, "t": t} for s, t in [(0.0, "b"), (0.5, "a"), (-0.0, "a"), (None, "a")]]
    first = table(tmp_path / "a.parquet", several)
    turned = table(tmp_path / "b.parquet", [*several[::-1], one | {"s": -9.0, "t": "a"}])
    other = table(tmp_path / "c.parquet", [{"URL": "http://x/2", "TEXT": "b", "s": 1.0, "t": "c"}] * 2)
    result = run(tmp_path / "root", first, turned, other, columns=["s", "t"])
    assert result.stats["attribute_conflicts"] == 1 and result.stats["exact_repeats"] == 9
    found = {row["t"]: row["s"] for row in attributes(result)}
    assert found == {"a": 0.0, "c": 1.0} and str(found["a"]) == "0.0"
    # What is removed does not win.
    kept = run(tmp_path / "kept", first, other, columns=["s", "t"], where="s >= 0.5")
    assert {row["s"] for row in attributes(kept)} == {0.5, 1.0} and kept.stats["attribute_conflicts"] == 0


def test_lists_agree_on_types_or_the_config_says_them(tmp_path: Path) -> None:
    a = table(tmp_path / "a.parquet", [{"URL": "http://x/1", "TEXT": "a", "s": 0.5}])
    b = table(tmp_path / "b.csv", [{"URL": "http://x/2", "TEXT": "b", "s": 0.25}])
    with pytest.raises(
        SourceError, match=r"lists .*a\.parquet and .*b\.csv: column 's' is DOUBLE .* VARCHAR .*s::VARCHAR"
    ):
        run(tmp_path / "root", a, b, columns=["s"])
    assert {row["s"] for row in attributes(run(tmp_path / "root", a, b, columns=["s::FLOAT"]))} == {0.5, 0.25}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_missing_column_is_named(tmp_path: Path, ending: str) -> None:
    path = table(tmp_path / f"a.{ending}", LAION)
    for options in (
        {"columns": ["punsafe"]},
        {"columns": ["punsafe::FLOAT"]},
        {"caption_columns": ["TEXT", "punsafe"]},
    ):
        with pytest.raises(SourceError, match=rf"a\.{ending}: no column \['punsafe'\]"):
            run(tmp_path / "root", path, **options)

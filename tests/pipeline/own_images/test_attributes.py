"""Columns that are carried along, and pairs that are not wanted, whatever the images lie in."""

import datetime
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.own_images import OwnImages
from pipeline.source import SourceConfig
from tests.pipeline.own_images.helpers import captions, picture, rows, rows_of, run, told, unused, write_members


def _tar(path: Path, *values: dict) -> Path:
    members: list[tuple[str, bytes]] = []
    for number, other in enumerate(values):
        members += [
            (f"{path.stem}{number}.jpg", picture(number)),
            (f"{path.stem}{number}.json", told(number, b"", **other)),
        ]
    return write_members(path, members)


def _carried(root: Path, columns: str) -> dict[str, tuple]:
    """Carried values by caption; the rows of both tables are the same, file by file."""
    files = sorted((root / "source_pairs").glob("*.parquet"))
    assert [path.name for path in files] == sorted(path.name for path in (root / "source_attributes").iterdir())
    found = {}
    for path in files:
        beside = pq.read_table(root / "source_attributes" / path.name)
        pairs = pq.read_table(path)
        assert beside.select(["sample_id", "image_id"]) == pairs.select(["sample_id", "image_id"])
        values = duckdb.sql(f"SELECT {columns} FROM beside").fetchall()
        found |= dict(zip(pairs["caption"].to_pylist(), values))
    return found


def test_a_tar_gives_what_its_json_says(tmp_path: Path) -> None:
    path = _tar(
        tmp_path / "a.tar",
        {"punsafe": 0.25, "LICENSE": "?", "similarity": "0.31", "n": 3, "ok": True},
        {"punsafe": None, "similarity": 1e20, "a/b~c": "odd"},
        {"LICENSE": 5.50, "similarity": 7},
    )
    columns = ["punsafe::DOUBLE", "LICENSE", "similarity::FLOAT", "n::TINYINT", "ok", "a/b~c", "shard"]
    with pytest.raises(SourceError, match=r"no column \['shard'\]; none of their samples has it"):
        run(tmp_path / "root", path, columns=columns)
    result, _ = run(tmp_path / "root", path, columns=columns[:-1])
    assert _carried(tmp_path / "root", "* EXCLUDE (sample_id, image_id)") == {
        "caption 0": (0.25, "?", pytest.approx(0.31), 3, "true", None),
        "caption 1": (None, None, pytest.approx(1e20), None, None, "odd"),
        "caption 2": (None, "5.5", 7.0, None, None, None),
    }
    assert result.stats["attribute_conflicts"] == 0 and "with LICENSE" not in result.stats
    # Nothing is asked for any more.
    result, _ = run(tmp_path / "root", path)
    assert not list((tmp_path / "root").glob("source_attributes/*")) and "attribute_conflicts" not in result.stats


def test_a_column_that_is_named_as_one_of_ours_is_theirs(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"shard": "x", "width": 300}, {"shard": "y", "width": 30})
    run(tmp_path / "root", path, columns=["shard", "width::BIGINT"], where="width > 100 AND height < 100")
    assert _carried(tmp_path / "root", "shard, width") == {"caption 0": ("x", 300)}


def test_a_value_that_is_not_of_its_type_is_listed(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"n": 1}, {"n": "many"}, {"n": [1]}, {"n": {"a": 1}}, {"n": "2"})
    result, _ = run(tmp_path / "root", path, columns=["n::INTEGER"])
    assert _carried(tmp_path / "root", "n") == {"caption 0": (1,), "caption 4": (2,)}
    assert rows(tmp_path / "root", "unused_images", "reason, error") == [
        ("failed_to_read", "its n is no INTEGER: many"),
        ("failed_to_read", "its n is no single value"),
        ("failed_to_read", "its n is no single value"),
    ]
    assert result.stats["failed_to_read"] == 3


def test_of_repeats_the_first_counts(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"n": 9}, {"n": 1, "url": "https://example.com/0.jpg", "caption": "caption 0"})
    _tar(tmp_path / "b.tar", {"n": 1, "caption": "another"})
    result, _ = run(tmp_path / "root", path, tmp_path / "b.tar", columns=["n::BIGINT"])
    assert _carried(tmp_path / "root", "n") == {"caption 0": (9,), "another": (1,)}
    assert result.stats["attribute_conflicts"] == 1


def test_a_folder_gives_what_its_tables_say(tmp_path: Path) -> None:
    for kind in ("a", "b", "c"):
        (tmp_path / "folder" / kind).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "folder" / kind / f"{number}.jpg").write_bytes(picture(2 * ord(kind) + number))
    lines = [
        {"file_name": "0.jpg", "text": "a0", "score": 0.5, "safe": False},
        {"file_name": "0.jpg", "text": "a0 again", "score": 0.75, "safe": False},
        {"file_name": "1.jpg", "text": "a1", "score": None},
    ]
    (tmp_path / "folder/a/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "folder/b/metadata.csv").write_text("file_name,text,score\n0.jpg,b0,1.5\n1.jpg,b1,high\n")
    (tmp_path / "folder/c/0.txt").write_text("c0")
    result, _ = run(tmp_path / "root", tmp_path / "folder", columns=["score::DOUBLE", "safe"])
    assert _carried(tmp_path / "root", "score, safe") == {
        "a0": (0.5, "false"),
        "a0 again": (0.5, "false"),
        "a1": (None, None),
        "b0": (1.5, None),
        "c0": (None, None),
    }
    assert unused(tmp_path / "root") == {"b/1.jpg": "failed_to_read", "c/1.jpg": "no_caption"}
    assert result.stats["attribute_conflicts"] == 1


def test_parquet_gives_values_of_its_own_types(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC)
    arrays = {
        "image": pa.array([picture(number) for number in range(3)], pa.binary()),
        "caption": pa.array([f"p{number}" for number in range(3)]),
        "similarity": pa.array([0.1, None, -0.0], pa.float32()),
        "license": pa.array([b"by", b"\xff", None], pa.binary()),
        "price": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(9, 2)),
        "when": pa.array([when, None, when], pa.timestamp("us", tz="UTC")),
        "word": pa.array(["a", "b", "a"]).dictionary_encode(),
        "boxes": pa.array([[1], [2], [3]]),
        "yes": pa.array([True, False, None]),
    }
    pq.write_table(pa.table(arrays), tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(pa.table({"image": arrays["image"][:1], "caption": ["q"]}), tmp_path / "b.parquet")
    names = ["similarity", "license", "price", "when", "word", "yes::INTEGER"]
    run(tmp_path / "root", tmp_path / "*.parquet", columns=names, samples_per_shard=2)
    found = _carried(tmp_path / "root", 'similarity, license, price, epoch_us("when"), word, yes')
    assert found.pop("q" if "q" in found else "p0")[:2] in ((None, None), (pytest.approx(0.1), "by"))
    assert found["p2"] == (0.0, None, Decimal("-2.25"), int(when.timestamp() * 1e6), "a", None)
    assert unused(tmp_path / "root")["000000001"] == "failed_to_read"
    schema = pq.read_schema(next((tmp_path / "root/source_attributes").iterdir()))
    assert schema.field("similarity").type == pa.float32() and schema.field("price").type == pa.decimal128(9, 2)
    with pytest.raises(SourceError, match=r"a.parquet: column 'boxes' holds list"):
        run(tmp_path / "root", tmp_path / "a.parquet", columns=["boxes"])
    _tar(tmp_path / "c.tar", {"similarity": 0.5})
    with pytest.raises(SourceError, match=r"'similarity' is FLOAT in the one and VARCHAR in the other; .*::VARCHAR"):
        run(tmp_path / "root", tmp_path / "a.parquet", tmp_path / "c.tar", columns=["similarity"])
    run(tmp_path / "both", tmp_path / "a.parquet", tmp_path / "c.tar", columns=["similarity::DOUBLE"])
    assert _carried(tmp_path / "both", "similarity")["caption 0"] == (0.5,)


def test_pairs_that_are_not_wanted_are_counted_and_images_without_one_listed(tmp_path: Path) -> None:
    values = [{"score": number / 10, "caption": ["long enough", "no", f"it is {number}"]} for number in range(10)]
    path = _tar(tmp_path / "a.tar", *values, {"caption": "this one has none"})
    where = "score > 0.55 AND length(caption) > 2 AND width = 8 AND url LIKE 'https:%'"
    result, images = run(tmp_path / "root", path, columns=["score::DOUBLE"], where=where)
    assert set(_carried(tmp_path / "root", "score").values()) == {(number / 10,) for number in range(6, 10)}
    assert sorted(map(len, captions(tmp_path / "root").values())) == [2] * 4
    assert unused(tmp_path / "root") == {f"a{number}": "filtered" for number in (0, 1, 2, 3, 4, 5, 10)}
    assert (result.stats["filtered"], result.stats["filtered_images"]) == (6 * 3 + 4 + 1, 7)
    assert result.stats["found"] == 11 and images.stats["adopted"] == len(
        rows_of(tmp_path / "root/images/00000.parquet")
    )
    # What is filtered is no repeat, and an image is where a pair of it is wanted first.
    later = _tar(tmp_path / "b.tar", {"score": 0.9})
    result, _ = run(tmp_path / "root", path, later, columns=["score::DOUBLE"], where=where)
    assert (result.stats["repeated_images"], result.stats["images"]) == (0, 5)
    # Another condition reads no tar again.
    assert run(tmp_path / "root", path, later, where="caption = 'no'")[0].stats["images"] == 10


def test_a_condition_that_is_none_or_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"n": "x"})
    with pytest.raises(ConfigError, match=r"source\.where.*score"):
        run(tmp_path / "root", path, where="score > 1")
    assert not (tmp_path / "root/own_samples").exists(), "before anything is read"
    with pytest.raises(SourceError, match=r"source.where: 'width > 8' removes all 1 usable pairs"):
        run(tmp_path / "root", path, where="width > 8")
    with pytest.raises(SourceError, match="cannot be computed of each pair"):
        run(tmp_path / "root", path, columns=["n"], where="n::INTEGER > 8")


def test_the_section_gives_them_for_images_too() -> None:
    source = SourceConfig(images=["x"], columns=["n::INTEGER"], where="n > 1")
    own = OwnImages.of(source)
    assert (own.columns, own.where) == (["n::INTEGER"], "n > 1")

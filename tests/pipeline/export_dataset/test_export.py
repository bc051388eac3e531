"""The data set of a root made by hand, compared with what that root was made of."""

import functools
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.errors import ConfigError, MissingInputError, ShardError
from pipeline.export_dataset import DatasetReport, export_dataset
from pipeline.export_dataset.card import KEPT_HASH
from tests.pipeline.export_dataset.roots import Made, make_root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_root(tmp_path_factory.mktemp("export") / "root")


def export(root: Path, folder: Path, **options: Any) -> DatasetReport:
    folder.mkdir()
    return export_dataset(root, folder, **options)


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(sorted(map(str, (folder / "data").glob("*.parquet")))).to_pylist()


def test_a_row_per_kept_image_with_all_that_is_known_of_it(made: Made, tmp_path: Path) -> None:
    report = export(made.root, tmp_path / "out")
    assert {row["image_id"]: row for row in rows(tmp_path / "out")} == made.rows
    assert (report.images, report.files) == (len(made.rows), 1)
    assert report.captions == sum(len(row["captions"]) for row in made.rows.values())
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    types = pq.read_schema(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    assert types.field("taken").type == pa.date32() and types.field("price").type == pa.decimal128(9, 2)
    assert types.field("captions").type == pa.list_(pa.string()) and types.metadata is None


@pytest.mark.parametrize("absent", ["attributes", "scores"])
def test_a_root_may_lack_attributes_and_scores(tmp_path: Path, absent: str) -> None:
    other = make_root(tmp_path / "root", **{absent: False})
    export(other.root, tmp_path / "out")
    assert {row["image_id"]: row for row in rows(tmp_path / "out")} == other.rows


def test_images_are_the_stored_bytes_also_of_adopted_tars(made: Made, tmp_path: Path) -> None:
    export(made.root, tmp_path / "out", images=True)
    images = {row["image_id"]: row["image"] for row in rows(tmp_path / "out")}
    assert {one: image["bytes"] for one, image in images.items()} == made.images
    for one, image in images.items():
        picture = Image.open(io.BytesIO(image["bytes"]))
        assert image["path"] == f"{one}.{'jpg' if picture.format == 'JPEG' else 'png'}"
    (file,) = (tmp_path / "out" / "data").iterdir()
    declared = json.loads(pq.read_schema(file).metadata[b"huggingface"])
    assert declared == {"info": {"features": {"image": {"_type": "Image"}}}}


def test_the_same_root_gives_the_same_bytes_in_files_of_a_size(made: Made, tmp_path: Path) -> None:
    first = export(made.root, tmp_path / "a", images=True, shard_size=1, license="mit", name="x")
    export(made.root, tmp_path / "b", images=True, shard_size=1, license="mit", name="x")
    export(made.root, tmp_path / "c", images=True)
    digests = [
        {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
            for path in folder.rglob("*.*")
        }
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert digests[0] == digests[1]
    assert first.files == 2 == len(digests[0]) - 1
    assert rows(tmp_path / "a") == rows(tmp_path / "c")
    assert f"data/train-0000{first.files - 1}-of-0000{first.files}.parquet" in digests[0]


def test_the_line_on_the_card_gives_the_hash_on_the_card(made: Made, tmp_path: Path, monkeypatch: Any) -> None:
    report = export(made.root, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert KEPT_HASH in card and f"`{report.kept_hash}`" in card
    monkeypatch.chdir(tmp_path / "out")
    assert duckdb.sql(KEPT_HASH).fetchall() == [(report.kept_hash,)]
    hashes = [int.from_bytes(hashlib.md5(str(one).encode()).digest(), "little") for one in made.rows]
    assert int(report.kept_hash, 16) == functools.reduce(int.__xor__, hashes)
    assert int(report.kept_hash, 16) != functools.reduce(int.__xor__, hashes[1:])


def test_what_is_missing_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="stage 'source_pairs' is not complete"):
        export(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(ConfigError, match="license 'CC BY' is no identifier"):
        export(made.root, tmp_path / "b", license="CC BY")
    with pytest.raises(ConfigError, match="shard_size"):
        export(made.root, tmp_path / "c", shard_size="much")


def test_a_kept_image_that_lost_its_row_or_its_bytes(tmp_path: Path) -> None:
    other = make_root(tmp_path / "root")
    (tmp_path / "adopted.tar").write_bytes((tmp_path / "adopted.tar").read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"adopted\.tar"):
        export(other.root, tmp_path / "a", images=True)
    lost = make_root(tmp_path / "lost", lost=1)
    with pytest.raises(ShardError, match=r"16 images were kept, with \d+ captions, but 15 with \d+ are"):
        export(lost.root, tmp_path / "b")


def test_datasets_loads_it(made: Made, tmp_path: Path) -> None:
    """The library is not among what the tests install; where it is there, it decodes the images."""
    datasets = pytest.importorskip("datasets")
    export(made.root, tmp_path / "out", images=True, shard_size=1, name="x | y")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["captions"].feature == datasets.Value("string")
    assert loaded.features["image_id"] == datasets.Value("int64")
    assert len(loaded) == len(made.rows)
    for row in loaded:
        expected = made.rows[row["image_id"]]
        stored = Image.open(io.BytesIO(made.images[row["image_id"]]))
        assert row["image"].size == stored.size == (row["width"], row["height"])
        assert row["image"].convert("RGB").tobytes() == stored.convert("RGB").tobytes()
        assert row["captions"] == expected["captions"] and row["url"] == expected["url"]
        assert (row["taken"], row["price"]) == (expected["taken"], expected["price"])

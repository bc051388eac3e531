"""Damage in Parquet is told by whoever reads it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import parquet, query, schema
from pipeline.core.errors import EmbeddingError, ShardError
from pipeline.core.query import QueryConfig
from pipeline.vectors.read import checked_batches, inspect
from pipeline.vectors.write import EmbeddingWriter

ROWS, WIDTH = 400, 64


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embeddings") / "00000.parquet"
    vectors = np.random.default_rng(0).normal(size=(ROWS, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with EmbeddingWriter(path, schema.caption_embeddings(WIDTH)) as writer:
        ids, cosines = np.arange(ROWS), np.ones(ROWS, np.float32)
        writer.add({"sample_id": ids, "image_id": ids, "text_embedding": vectors, "image_text_similarity": cosines})
    return path


def in_batches(path: Path) -> list[Any]:
    (file,) = inspect(path, column="text_embedding")
    # By both ids, so that all columns but one are read.
    found = [
        *checked_batches(file, column="text_embedding"),
        *checked_batches(file, column="text_embedding", id_column="image_id"),
    ]
    return [array.tolist() for pair in found for array in pair]


def whole(path: Path) -> list[Any]:
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize(("read", "kind"), [(in_batches, EmbeddingError), (whole, ShardError)])
def test_no_flipped_bit_of_a_page_is_used(
    embeddings: Path, tmp_path: Path, read: Callable[[Path], list[Any]], kind: type[Exception]
) -> None:
    content, expected = embeddings.read_bytes(), read(embeddings)
    path, drawn, unharmed = tmp_path / "flipped.parquet", random.Random(0), 0
    # The footer says where pages are: what is damaged there is mostly told, but not by a checksum.
    pages = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    for _ in range(100):
        flipped = bytearray(content)
        flipped[drawn.randrange(4, pages)] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read(path) == expected
            unharmed += 1
        except kind as error:
            assert str(path) in str(error) and error.damaged == path  # type: ignore[attr-defined]
    assert unharmed < 10, "only bits of headers of pages that nobody asks for may be any"


def test_equal_tables_are_equal_bytes_with_checksums_too(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(1000))})
    for name in ("a", "b"):
        parquet.write_table(table, tmp_path / name, compression="zstd")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_without_checksums_are_read_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet").equals(table)
    assert parquet.fault_of(tmp_path / "a.parquet") is None


def test_what_is_no_damage_blames_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parquet.read_table(tmp_path / "nowhere.parquet")
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(pa.ArrowInvalid):
        parquet.read_table(tmp_path / "a.parquet", columns=["b"])


@pytest.mark.parametrize("start", [20, 200, 8000])
def test_a_file_that_duckdb_cannot_decode_is_named(tmp_path: Path, start: int) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": np.random.default_rng(0).integers(0, 99, 9999)}), path, compression="zstd")
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(400) + content[start + 400 :])
    with (
        pytest.raises(ShardError, match=r"a\.parquet: not a readable Parquet file") as raised,
        query.connect(QueryConfig(), scratch=tmp_path) as connection,
    ):
        query.one(connection, "SELECT sum(a) FROM read_parquet($paths)", {"paths": query.files([path])})
    assert raised.value.damaged == path


@pytest.mark.parametrize(
    "values", [["a", "b"] * 9, [1.5] * 9, [None, 2**40], [b"x" * 5000] * 300], ids=["texts", "floats", "null", "bytes"]
)
@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_whether_pages_have_checksums_is_known(tmp_path: Path, values: list[Any], options: dict[str, Any]) -> None:
    path = tmp_path / "table.parquet"
    for version in ("1.0", "2.0"):
        parquet.write_table(pa.table({"x": values}), path, data_page_version=version, **options)
        assert parquet.has_checksums(path)
        pq.write_table(pa.table({"x": values}), path, data_page_version=version, **options)
        assert not parquet.has_checksums(path)

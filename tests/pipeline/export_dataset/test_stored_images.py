"""Images out of samples, in parts that fit into memory."""

import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import ShardError
from pipeline.export_dataset.stored_images import StoredImages, parts
from tests.pipeline.export_dataset.roots import make_root


def test_parts_are_bounded_in_rows_and_bytes() -> None:
    sizes = [10] * 2500 + [60 << 20, 5 << 20, 200 << 20, 1]
    found = list(parts(pa.table({"size": sizes})))
    assert pa.concat_tables(found)["size"].to_pylist() == sizes
    assert [part.num_rows for part in found] == [1000, 1000, 501, 1, 1, 1]
    assert list(parts(pa.table({"size": pa.array([], pa.int64())}))) == []


def test_a_sample_without_an_image_is_named(tmp_path: Path) -> None:
    made = make_root(tmp_path / "root")
    with tarfile.open(tmp_path / "adopted.tar", "w") as tar:
        info = tarfile.TarInfo("00000.txt")
        tar.addfile(info)
    row = {
        "image_id": 1,
        "shard": "00001",
        "offset": 0,
        "size": 512,
        "crc32": None,
        "tar": str(tmp_path / "adopted.tar"),
    }
    with (
        StoredImages(made.root) as stored,
        pytest.raises(ShardError, match=r"adopted\.tar, offset 0: a sample without an image.*\['txt'\]"),
    ):
        stored.column(pa.Table.from_pylist([row]))

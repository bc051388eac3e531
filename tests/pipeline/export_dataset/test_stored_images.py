"""Images out of samples, in parts that fit into memory."""

import pyarrow as pa
import pytest

from pipeline.core.errors import ShardError
from pipeline.export_dataset.stored_images import image_of, parts


def test_parts_are_bounded_in_rows_and_bytes() -> None:
    sizes = [10] * 2500 + [60 << 20, 5 << 20, 200 << 20, 1]
    found = list(parts(pa.table({"size": sizes})))
    assert pa.concat_tables(found)["size"].to_pylist() == sizes
    assert [part.num_rows for part in found] == [1000, 1000, 501, 1, 1, 1]
    assert list(parts(pa.table({"size": pa.array([], pa.int64())}))) == []


def test_the_image_of_a_sample() -> None:
    assert image_of({"json": b"{}", "JPEG": b"x", "txt": b""}, where="t") == ("jpeg", b"x")
    with pytest.raises(ShardError, match=r"t: a sample without an image; it has \['json'\]"):
        image_of({"json": b"{}"}, where="t")

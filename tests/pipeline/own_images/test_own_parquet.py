"""Images in Parquet: as Hugging Face writes them and as bytes in a column."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from tests.pipeline.own_images.helpers import captions, minted, picture, rows, run, stored, unused

NO_BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], rows_in_a_group: int = 2) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_in_a_group)
    return path


def test_structs_of_bytes_and_path_are_packed_in_shards(tmp_path: Path) -> None:
    root = tmp_path / "root"
    images = [{"bytes": picture(n, "PNG" if n % 2 else "JPEG"), "path": f"{n}.png"} for n in range(7)]
    texts = [[f"caption {n}", f"Satz {n}"] for n in range(7)]
    write(tmp_path / "a.parquet", {"image": images, "text": texts}, 3)
    result, packed = run(root, tmp_path / "a.parquet", samples_per_shard=4)
    assert (result.stats["images"], result.stats["pairs"], packed.shards) == (7, 14, 2)
    found = stored(root)
    assert {found[image_id]: text for image_id, text in captions(root).items()} == {
        image["bytes"]: set(text) for image, text in zip(images, texts)
    }
    # Named by what they are, not by what they are called.
    assert [row[0] for row in rows(root, "images", "key")] == [f"00000000{n}" for n in range(4)] + [
        f"00001000{n}" for n in range(3)
    ]
    before = packed.shard_digests
    write(tmp_path / "b.parquet", {"image": [{"bytes": picture(9), "path": None}], "text": [["nine"]]})
    _, packed = run(root, tmp_path / "*.parquet", samples_per_shard=4)
    assert packed.computed == 1 and before.items() < packed.shard_digests.items()


def test_a_column_of_bytes_with_urls_and_several_columns_of_captions(tmp_path: Path) -> None:
    root = tmp_path / "root"
    columns = {
        "jpg": [picture(1), None, b"", picture(4), b"GIF89a"],
        "en": ["one", "two", "three", None, "five"],
        "de": ["eins", None, "", " ", "f\u00fcnf"],
        "URL": ["https://x/1", "https://x/2", None, "https://x/4", None],
    }
    write(tmp_path / "a.parquet", columns)
    result, packed = run(root, tmp_path / "a.parquet", image_column="jpg", caption_columns=["en", "de"])
    assert captions(root) == {minted("https://x/1"): {"one", "eins"}, minted("https://x/2"): {"two"}}
    assert stored(root) == {minted("https://x/1"): picture(1)}
    assert unused(root) == {"000000002": "failed_to_read", "000000003": "no_caption", "000000004": "failed_to_read"}
    assert rows(root, "images", "url, status, error") == [
        ("https://x/1", "success", None),
        ("https://x/2", "failed_to_read", "its row holds no bytes"),
    ]
    assert (result.stats["failed_to_read"], packed.stats["failed_to_read"]) == (2, 1)


def test_parquet_without_images_or_captions_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for columns, said in (
        (
            {"URL": ["http://x"], "TEXT": ["x"]},
            r"no column \['image'\]; it has \['URL', 'TEXT'\]; set source.image_column",
        ),
        ({"image": ["path.jpg"], "text": ["x"]}, "holds string, neither bytes"),
        ({"image": [{"path": "x"}], "text": ["x"]}, "neither bytes nor a struct with bytes"),
        ({"image": [b"x"], "label": [1]}, r"no column \['TEXT'\] with captions; it has \['image', 'label'\]"),
        (
            {"image": pa.array([{"bytes": None}], NO_BYTES), "text": ["x"]},
            r"1 failed_to_read\), the first .* its row holds no",
        ),
    ):
        write(path, columns)
        with pytest.raises(SourceError, match=said):
            run(tmp_path / "root", path)
    write(path, {"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())})
    with pytest.raises(SourceError, match="0 samples found"):
        run(tmp_path / "root", path)
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(SourceError, match="no readable Parquet"):
        run(tmp_path / "root", path)

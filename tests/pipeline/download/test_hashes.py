"""Both hashes of an image are of the bytes as they were served, however they came and wherever they were decoded."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.tars import Place, TarReader, read_index
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images
from pipeline.storage.stage import Stage
from tests.pipeline.download.test_resize import picture


@pytest.mark.slow
def test_hashes_of_what_was_served(tmp_path: Path) -> None:
    root, served = tmp_path / "root", {}
    rows = []
    for number, content in enumerate([picture(80, 60).getvalue(), picture(30, 90).getvalue(), b"no picture"]):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        served[number] = content
        rows.append({"sample_id": 10 + number, "image_id": number, "url": path.as_uri(), "caption": f"c{number}"})
    stage = Stage(root, "source_pairs", version=3, config=1, inputs={"pairs": 1})
    with stage.output("pairs") as output:
        table = pa.Table.from_pylist(rows, schema=schema.SOURCE_PAIRS)
        pq.write_table(table, output.path("source_pairs/00000.parquet"))
    stage.finish()
    download_images(root, ImagesConfig(schemes=["file"], processes=1))
    table = pq.read_table(root / "images/00000.parquet")
    assert table.schema.equals(schema.IMAGES)
    found = {row["image_id"]: row for row in table.to_pylist()}
    reader = TarReader(root / "images/00000.tar")
    index = read_index(root / "images/index/00000.parquet").to_pylist()
    said = {row["image_id"]: json.loads(reader.sample(*Place.of(row))["json"]) for row in index}
    for number in (0, 1):
        for name in ("sha256", "md5"):
            expected = hashlib.new(name, served[number]).hexdigest()
            assert found[number][name] == said[number][name] == expected
    assert (found[2]["sha256"], found[2]["md5"], set(said)) == (None, None, {0, 1})

"""Rows per caption to rows per image, wherever batches end."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError
from pipeline.export_dataset.rows import carried_columns, image_rows, pairs_query


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batches_end_anywhere(size: int) -> None:
    text, layout = pairs_query([], attributes=False, scores=False, places=False)
    assert "ORDER BY" in text
    counts = np.random.default_rng(0).integers(1, 6, 12)
    ids = np.repeat(np.arange(12) * 7 - 20, counts).tolist()
    pairs = [
        {"image_id": one, "sample_id": number, "caption": f"c{number}", "similarity": 0.5, "url": f"u{number}"}
        for number, one in enumerate(ids)
    ]
    table = pa.Table.from_pylist(pairs, schema=layout)
    found = [row for part in image_rows(table.to_batches(max_chunksize=size), []) for row in part.to_pylist()]
    assert [row["image_id"] for row in found] == list(dict.fromkeys(ids))
    for row in found:
        own = [pair for pair in pairs if pair["image_id"] == row["image_id"]]
        assert row["sample_ids"] == [pair["sample_id"] for pair in own]
        assert row["captions"] == [pair["caption"] for pair in own] and row["url"] == own[0]["url"]


def test_nothing_gives_nothing() -> None:
    _, layout = pairs_query([], attributes=False, scores=False, places=False)
    assert list(image_rows([], [])) == []
    assert [part.num_rows for part in image_rows(layout.empty_table().to_batches(), [])] == []


def _table(path: Path, **columns: list) -> list[Path]:
    pq.write_table(pa.table({"image_id": [1], **columns}), path)
    return [path]


def test_names_that_are_taken(tmp_path: Path) -> None:
    attributes = _table(tmp_path / "a", sample_id=[1], Width=[2], similarity=[0.5], URLS=["x"], key=["k"], Image=[1])
    found = carried_columns(attributes, _table(tmp_path / "s", aesthetic=[0.5]))
    names = ["source_Width", "similarity", "URLS", "key", "source_Image", "aesthetic"]
    assert [one.field.name for one in found] == names
    with pytest.raises(ConfigError, match="'aesthetic'"):
        carried_columns(_table(tmp_path / "b", Aesthetic=[1]), _table(tmp_path / "s", aesthetic=[0.5]))
    with pytest.raises(ConfigError, match="source_WIDTH"):
        carried_columns(_table(tmp_path / "c", source_width=[1], WIDTH=[1]), [])

"""Sheets of the pairs just under and just over each threshold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.page.balance_plots import border_sheet
from pipeline.balance.advice import BorderPair, ThresholdRow
from pipeline.core import query
from pipeline.core.query import QueryConfig
from pipeline.core.remote_tar import image_of
from pipeline.storage.result import read_result
from pipeline.storage.samples import stored_sample

_CAPTION = 44


def write_border_sheets(
    root: Path, rows: Sequence[ThresholdRow], folder: Path, query_config: QueryConfig | None = None
) -> list[str]:
    """Write a PNG named by number and threshold for each row to ``folder`` and return the names, in that order.

    Images are read one sheet at a time, wherever they lie. Raises :class:`pipeline.core.errors.ShardError` for one that
    is damaged.
    """
    places = _places(root, rows, query_config or QueryConfig())

    def drawn(pair: BorderPair) -> tuple[bytes, bytes, str]:
        left, right = (
            image_of(stored_sample(root, places[image]["shard"], places[image]))
            for image in (pair.image_a, pair.image_b)
        )
        captions = [_line(caption) for caption in (pair.caption_a, pair.caption_b) if caption]
        return left, right, "\n".join([f"{pair.distance:.4f}", *captions])

    names = []
    for number, row in enumerate(rows, 1):
        name = f"{number:02}-threshold-{row.threshold:g}.png"
        under, over = ([drawn(pair) for pair in pairs] for pairs in (row.under, row.over))
        border_sheet(under, over, threshold=row.threshold, full=folder / name)
        names.append(name)
    return names


def _places(root: Path, rows: Sequence[ThresholdRow], config: QueryConfig) -> dict[int, dict[str, Any]]:
    """Of each image its shard and what the tar's index says."""
    shown = {image for row in rows for pair in (*row.under, *row.over) for image in (pair.image_a, pair.image_b)}
    images = read_result(root, "images")
    parameters: dict[str, Any] = {
        "shown": sorted(shown),
        "images": query.files(images.parquet("images")),
        "index": query.files(images.parquet("index")),
    }
    with query.connect(config, scratch=root / ".tmp") as connection:
        found = connection.sql(query.sql("assets", "border_images"), params=parameters).to_arrow_table()
    return {row["image_id"]: row for row in found.to_pylist()}


def _line(caption: str) -> str:
    text = " ".join(caption.split())
    return text if len(text) <= _CAPTION else f"{text[: _CAPTION - 3]}..."

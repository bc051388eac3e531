"""The corpus as anyone's own images: PNG as the packages have them, and Hugging Face's ``metadata.jsonl`` beside them.

Its folder is input of ``source.images``; nothing here knows how that is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.emoji.captions import captions_of
from benchmarks.emoji.catalog import Emoji
from pipeline.core.errors import SourceError
from pipeline.core.files import write_text_atomically

METADATA = "metadata.jsonl"


def write_metadata(folder: Path, catalog: Sequence[Emoji], licenses: Mapping[str, str]) -> dict[str, int]:
    """Write ``metadata.jsonl`` of the images ``<folder>/<vendor>/*.png``.

    Args:
        folder: with a folder for each vendor.
        catalog: all emoji; images of a vendor that are not in it get no row, and so no caption.
        licenses: of each vendor's images.

    Returns:
        How many images each vendor has a row for.

    Raises:
        SourceError: a vendor lacks an image which the catalog says it has.
    """
    rows = [row for vendor, license_ in licenses.items() for row in _rows(folder, vendor, catalog, license_)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target = folder / METADATA
    # Its time tells whether it changed.
    if not target.exists() or target.read_text() != text:
        write_text_atomically(target, text)
    vendors = [row["vendor"] for row in rows]
    return {vendor: vendors.count(vendor) for vendor in licenses}


def _rows(folder: Path, vendor: str, catalog: Sequence[Emoji], license_: str) -> Iterator[dict[str, Any]]:
    present = {path.name for path in (folder / vendor).iterdir()}
    for emoji in catalog:
        if vendor not in emoji.vendors:
            continue
        if emoji.image not in present:
            raise SourceError(f"{folder / vendor}: no {emoji.image}, {emoji.name}")
        yield {
            "file_name": f"{vendor}/{emoji.image}",
            "text": captions_of(emoji, vendor),
            "unicode": emoji.code,
            "name": emoji.name,
            "skin_tone": emoji.skin_tone,
            "category": emoji.category,
            "subgroup": emoji.subgroup,
            "vendor": vendor,
            "license": license_,
        }

"""Images, tars, folders and Parquet as others write them, small."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image

from pipeline.core.query import QueryConfig
from pipeline.core.remote_tar import image_of, open_tar
from pipeline.core.tars import Place
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs
from pipeline.storage.result import StageResult

QUERY = QueryConfig(threads=1)


def picture(number: int, kind: str = "JPEG", size: tuple[int, int] = (8, 6)) -> bytes:
    """An image of its own number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_members(path: Path, members: Iterable[tuple[str, bytes]], format_: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format_) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def told(number: int, image: bytes, **other: Any) -> bytes:
    """The JSON of a sample as img2dataset writes it."""
    values = {
        "url": f"https://example.com/{number}.jpg",
        "caption": f"caption {number}",
        "key": f"{number:09d}",
        "status": "success",
        "error_message": None,
        "width": 8,
        "height": 6,
        "original_width": 80,
        "original_height": 60,
        "exif": "{}",
        "sha256": hashlib.sha256(b"as served" + image).hexdigest(),
    }
    return json.dumps(values | other, indent=4).encode()


def by_img2dataset(path: Path, numbers: Iterable[int], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar with image, text and JSON of each number."""
    members: list[tuple[str, bytes]] = []
    for number in numbers:
        image = picture(number)
        members += [
            (f"{number:09d}.jpg", image),
            (f"{number:09d}.txt", f"caption {number}".encode()),
            (f"{number:09d}.json", told(number, image)),
        ]
    return write_members(path, members, kind)


def run(root: Path, *images: str | Path, **values: Any) -> tuple[StageResult, StageResult]:
    """Both stages."""
    config = OwnImages(images=[str(path) for path in images], **values)
    return import_own_pairs(root, config, QUERY), adopt_images(root, config)


def rows(root: Path, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """Rows of a table of the root, in the order of its files."""
    if not list((root / table).glob("*.parquet")):
        return []
    scan = (
        f"read_parquet('{root}/{table}/*.parquet', hive_partitioning = false, filename = true, file_row_number = true)"
    )
    order = "filename, file_row_number"
    return duckdb.sql(
        f"SELECT {columns.replace('*', '* EXCLUDE (filename, file_row_number)')} FROM {scan} ORDER BY {order}"
    ).fetchall()


def unused(root: Path) -> dict[str | None, str]:
    """Reasons by key."""
    return dict(rows(root, "unused_images", "key, reason"))


def captions(root: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for image_id, caption in rows(root, "source_pairs", "image_id, caption"):
        found.setdefault(image_id, set()).add(caption)
    return found


def stored(root: Path) -> dict[int, bytes]:
    """The image of every sample of the indexes, read one by one and together."""
    found: dict[int, bytes] = {}
    for path in sorted((root / "images" / "index").glob("*.parquet")):
        table = rows_of(path)
        for row in table:
            reader = open_tar(root, path.stem, row["tar"])
            found[row["image_id"]] = image_of(reader.sample(*Place.of(row)))
        if table:
            together = open_tar(root, path.stem, table[0]["tar"]).samples([Place.of(row) for row in table])
            assert [image_of(members) for members in together] == [found[row["image_id"]] for row in table]
    return found


def rows_of(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def minted(name: str) -> int:
    """An id by the rule of the docs."""
    return int.from_bytes(hashlib.md5(name.encode()).digest()[8:], "little") - 2**63

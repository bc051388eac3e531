import io

import numpy as np
import pytest
from PIL import Image

from pipeline.download.jpeg_scans import MOST_SCANS, has_too_many_scans
from tests.pipeline.download.pictures import jpeg_of_scans


def segment(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize(
    ("scans", "too_many"), [(10, False), (MOST_SCANS, False), (MOST_SCANS + 1, True), (5000, True)]
)
def test_scans_are_counted(scans: int, too_many: bool) -> None:
    picture = jpeg_of_scans(scans)
    assert picture.count(b"\xff\xda") == scans
    assert has_too_many_scans(picture) is too_many
    assert has_too_many_scans(memoryview(picture)) is too_many


def test_what_is_no_scan_is_not_counted() -> None:
    """Markers in segments, behind the end, and noise, which holds all of them."""
    start, rest = jpeg_of_scans(10)[:2], jpeg_of_scans(10)[2:]
    many = b"\xff\xda" * 30_000
    assert not has_too_many_scans(start + segment(0xE1, many) + segment(0xFE, many) + rest)
    assert not has_too_many_scans(start + rest + many)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8))
    for progressive in (False, True):
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", quality=100, progressive=progressive, restart_marker_rows=1)
        assert not has_too_many_scans(buffer.getvalue())


def test_bytes_between_segments_hide_no_scan() -> None:
    """libjpeg steps over what stands before a marker, fill bytes among it."""
    picture = jpeg_of_scans(5000)
    for filling in (b"\xff", b"junk", b"\xff\x00\xff\xff"):
        assert has_too_many_scans(picture.replace(b"\xff\xda", filling + b"\xff\xda"))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\0\0"]
)
def test_what_is_cut_is_no_error(data: bytes) -> None:
    assert not has_too_many_scans(data)

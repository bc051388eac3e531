import io
import itertools
import os

import numpy as np
import pytest
from PIL import Image

from pipeline.download.resize import Resizer

MODES = ["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"]


def resizer(**changes: object) -> Resizer:
    values = {
        "image_size": 64,
        "mode": "keep_ratio",
        "only_if_bigger": False,
        "quality": 95,
        "min_size": 0,
        "max_area": 10**8,
        "max_aspect_ratio": 10.0,
    }
    return Resizer(**(values | changes))


def picture(width: int, height: int) -> io.BytesIO:
    rng = np.random.default_rng(width * height)
    image = Image.fromarray(rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), np.uint8)).resize(
        (width, height)
    )
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer


@pytest.mark.parametrize(("mode", "only_if_bigger"), itertools.product(MODES, [False, True]))
def test_plain_pictures_become_what_img2dataset_makes_of_them(mode: str, only_if_bigger: bool) -> None:
    # What img2dataset imports would ask the network for a newer version of itself.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset.resizer import Resizer as Reference

    reference = Reference(64, mode, only_if_bigger, encode_quality=95, max_aspect_ratio=10.0)
    for size in ((200, 100), (101, 333), (64, 64), (40, 30), (33, 97), (65, 129)):
        ours = resizer(mode=mode, only_if_bigger=only_if_bigger)(picture(*size))
        theirs = reference(picture(*size))
        assert ours[1:] == theirs[1:], (mode, size)
        assert ours[0] == theirs[0], (mode, size)


def test_bounds_are_named() -> None:
    assert resizer(min_size=50)(picture(100, 49))[5] == "[failed_to_resize] image too small: 100 x 49"
    assert resizer(max_area=100)(picture(20, 20))[5] == "[too_large] more pixels than allowed: 20 x 20"
    assert resizer(max_aspect_ratio=2)(picture(100, 49))[5] == "[failed_to_resize] aspect ratio too large: 100 x 49"


def test_a_container_that_lies_about_its_size_is_damaged() -> None:
    data = bytearray(picture(80, 60).getvalue())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = (70).to_bytes(2, "big") + (90).to_bytes(2, "big")
    error = resizer()(io.BytesIO(bytes(data)))[5]
    assert error is None or error.startswith("[failed_to_resize]")


@pytest.mark.parametrize("cut", [1, 10, 100, 400])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_failures_not_errors(kind: str, cut: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(buffer, kind)
    whole = buffer.getvalue()
    rng = np.random.default_rng(cut)
    noisy = bytearray(whole)
    for place in rng.integers(0, len(noisy), 30):
        noisy[place] = rng.integers(0, 255)
    for data in (whole[: len(whole) // 2], whole[:cut], bytes(noisy)):
        jpeg, *_, error = resizer()(io.BytesIO(data))
        assert (jpeg is None) == (error is not None)
        assert error is None or error.startswith(("[failed_to_resize]", "[too_large]"))


@pytest.mark.parametrize("mode", ["no", "keep_ratio"])
def test_a_side_that_jpeg_cannot_hold_is_named(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (70_000, 64)).save(buffer, "PNG")
    error = "[too_large] side too long for JPEG: 70000 x 64, at most 65500"
    assert resizer(mode=mode, max_aspect_ratio=1e9)(buffer)[5] == error
    assert resizer(mode="border", max_aspect_ratio=1e9)(buffer)[1:] == (64, 64, 70_000, 64, None)


@pytest.mark.parametrize(("kind", "what"), [(np.float32, "32-bit float"), (np.int32, "32-bit integer")])
def test_a_depth_that_is_no_picture_is_named(kind: type, what: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(2000).reshape(40, 50).astype(kind)).save(buffer, "TIFF")
    assert resizer()(buffer)[5] == f"[failed_to_resize] pixels are not of 8 or 16 bits: {what}"


def test_an_unforeseen_error_is_told_by_its_name() -> None:
    assert resizer(image_size="wide")(picture(80, 60))[5].startswith("[failed_in_worker] unforeseen error: TypeError: ")

"""Bytes from the web to a JPEG of the asked size: what is accepted, and what it becomes.

Accepted are the raster formats of ``FORMATS``, by content, whatever the server calls them. The header is read first, so
that a picture of too many pixels is refused before it is decoded. Every stored image is an upright 8-bit RGB JPEG: EXIF
orientation is applied, transparency is laid on white, CMYK, gray and 16-bit pictures are converted, and of an animation
the first frame is taken. Sizes and interpolation are img2dataset's, whose own resizer decodes before it looks at the
size, keeps pictures on their side and starts anew with its transforms for every image.
"""

import dataclasses
import io
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps

from pipeline.download.jpeg_scans import MOST_SCANS, has_too_many_scans
from pipeline.web.outcomes import LOST, SampleError

Resized = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]
"""``(jpeg, width, height, original_width, original_height, error)``; either jpeg or error is None."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# What OpenCV reads, upright and in the usual depth, and faster than Pillow; the others' alpha or palette needs Pillow.
_BY_OPENCV = {"JPEG", "PNG", "WEBP", "BMP", "TIFF"}
# Pillow calls a JPEG with further pictures behind the first an MPO.
_JPEG = {"JPEG", "MPO"}
# libjpeg writes no longer ones.
_LONGEST_SIDE = 65_500
# Pillow's modes for them: their range is nowhere said, so that they are no picture yet.
_DEEP = {"F": "32-bit float", "I": "32-bit integer"}
# What decoders raise on bytes that lie about themselves.
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, MemoryError, struct.error, cv2.error
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resizer:
    """A body in, an image or a reason out; plain values, so that it travels to any worker.

    ``image_size`` in pixels, of the shorter side for modes ``keep_ratio`` and ``center_crop``, of the longer one for
    ``keep_ratio_largest`` and ``border``. ``quality`` is JPEG's. The bounds are on the picture as it was served.
    """

    image_size: int
    mode: str
    only_if_bigger: bool
    quality: int
    min_size: int
    max_area: int
    max_aspect_ratio: float

    def __call__(self, stream: io.BytesIO) -> Resized:
        """What becomes of a body. Whatever goes wrong with it is said in words."""
        try:
            return (*self.convert(stream), None)
        except SampleError as error:
            return None, None, None, None, None, str(error)
        except Exception as error:  # noqa: BLE001 - img2dataset would leave the sample out without a word
            unforeseen = SampleError(LOST, "unforeseen error", f"{type(error).__name__}: {error}")
            return None, None, None, None, None, str(unforeseen)

    def convert(self, stream: io.BytesIO) -> tuple[bytes, int, int, int, int]:
        """The same without the error, which is raised as :class:`SampleError`."""
        with self._open(stream) as opened:
            try:
                image = self._decode(opened, stream)
            except _DECODER_ERRORS as error:
                raise SampleError("failed_to_resize", "damaged image", error) from error
        original_height, original_width = image.shape[:2]
        image = self._resize(image)
        # Copied where cropping left a view: OpenCV wants whole rows.
        _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        height, width = image.shape[:2]
        return jpeg.tobytes(), width, height, original_width, original_height

    def _open(self, stream: io.BytesIO) -> Image.Image:
        """Header alone, checked against the bounds."""
        stream.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise SampleError("too_large", "more pixels than allowed", error) from error
        except _DECODER_ERRORS as error:
            raise SampleError("failed_to_resize", "not an image in a known format", _what(stream)) from error
        width, height = opened.size
        if width * height > self.max_area:
            raise SampleError("too_large", "more pixels than allowed", f"{width} x {height}")
        if min(width, height) < max(self.min_size, 1):
            raise SampleError("failed_to_resize", "image too small", f"{width} x {height}")
        if max(width, height) / min(width, height) > self.max_aspect_ratio:
            raise SampleError("failed_to_resize", "aspect ratio too large", f"{width} x {height}")
        if opened.format in _JPEG and has_too_many_scans(stream.getbuffer()):
            raise SampleError("failed_to_resize", "too many scans", f"more than {MOST_SCANS}")
        return opened

    def _decode(self, opened: Image.Image, stream: io.BytesIO) -> np.ndarray:
        """Pixels in OpenCV's order, blue first."""
        if opened.format in _BY_OPENCV and not opened.has_transparency_data:
            image = cv2.imdecode(np.frombuffer(stream.getbuffer(), np.uint8), cv2.IMREAD_COLOR)
            if image is None and opened.mode in _DEEP:
                raise SampleError("failed_to_resize", "pixels are not of 8 or 16 bits", _DEEP[opened.mode])
            if image is None:
                raise ValueError(f"{opened.format} of {opened.width} x {opened.height} cannot be decoded")
            if image.shape[0] * image.shape[1] != opened.width * opened.height:
                raise ValueError(f"header says {opened.size}, content is {image.shape[1::-1]}")
            return image
        upright = ImageOps.exif_transpose(opened)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.new("RGB", rgba.size, "white")
            upright.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(upright.convert("RGB"))[:, :, ::-1]

    def _resize(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        side = min(height, width) if self.mode in ("keep_ratio", "center_crop") else max(height, width)
        smaller = side > self.image_size
        if self.mode == "no" or (self.only_if_bigger and not smaller):
            _check_stored(width, height)
            return image
        scale = self.image_size / side
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if self.mode != "center_crop":
            _check_stored(*size)
        if size != (width, height):
            method = cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4
            image = cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
        height, width = image.shape[:2]
        if self.mode == "center_crop":
            top, left = (height - self.image_size) // 2, (width - self.image_size) // 2
            image = image[top : top + self.image_size, left : left + self.image_size]
        elif self.mode == "border":
            above, before = (self.image_size - height) // 2, (self.image_size - width) // 2
            below, after = self.image_size - height - above, self.image_size - width - before
            white = (255, 255, 255)
            image = cv2.copyMakeBorder(image, above, below, before, after, cv2.BORDER_CONSTANT, value=white)
        return image


def _check_stored(width: int, height: int) -> None:
    if max(width, height) > _LONGEST_SIDE:
        raise SampleError("too_large", "side too long for JPEG", f"{width} x {height}, at most {_LONGEST_SIDE}")


def _what(stream: io.BytesIO) -> str:
    """A word on what was served instead of an image."""
    start = stream.getvalue()[:512].lstrip().lower()
    if not start:
        return "no bytes"
    if b"<svg" in start:
        return "SVG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith((b"ii*\0", b"mm\0*")):
        return "TIFF of a kind that Pillow does not read"
    return "unknown bytes"

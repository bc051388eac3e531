"""Near-duplicates: what happens to an image on its way from one site to another, without changing what it shows."""

import io

import numpy as np
from PIL import Image, ImageEnhance

from pipeline.demo.drawing import jpeg_bytes

IMAGE_VARIATIONS = ("rescale", "crop", "recolour", "recompress")
"""Changes of the image, in the order in which they are applied."""

RECAPTION = "recaption"
"""The one variation that leaves the image alone."""

_MIN_SIDE_PX = 48
_HUE_SHIFT_DEG = 3.0


def random_variation(rng: np.random.Generator) -> tuple[str, ...]:
    """One to three different variations, in the order in which they are applied; the new caption comes last."""
    names = (*IMAGE_VARIATIONS, RECAPTION)
    chosen = rng.choice(len(names), size=int(rng.integers(1, 4)), replace=False)
    return tuple(names[i] for i in sorted(chosen))


def vary(jpeg: bytes, variation: tuple[str, ...], rng: np.random.Generator) -> bytes:
    """The JPEG after ``variation``; the same bytes if only the caption is to change."""
    changes = [name for name in variation if name != RECAPTION]
    if not changes:
        return jpeg
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if "rescale" in changes:
        image = _rescale(image, rng)
    if "crop" in changes:
        image = _crop(image, rng)
    if "recolour" in changes:
        image = _recolor(image, rng)
    quality = rng.integers(40, 70) if "recompress" in changes else rng.integers(85, 96)
    return jpeg_bytes(image, int(quality))


def _rescale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Between 0.6 and 1.4 times the size, but never less than 48 pixels."""
    factor = max(rng.uniform(0.6, 1.4), _MIN_SIDE_PX / min(image.size))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 2 % cut off each side."""
    left, upper, right, lower = rng.uniform(0, 0.02, size=4)
    width, height = image.size
    return image.crop(
        (round(left * width), round(upper * height), round((1 - right) * width), round((1 - lower) * height))
    )


def _recolor(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness and contrast by up to 7 %, hue by up to 3 degrees."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.93, 1.07))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.93, 1.07))
    # Rotating chroma in YCbCr turns the hue; PIL's 8-bit HSV would round it to steps of 1.4 degrees.
    luma, blue, red = np.moveaxis(np.asarray(image.convert("YCbCr"), dtype=np.float32), 2, 0)
    angle = np.radians(rng.uniform(-_HUE_SHIFT_DEG, _HUE_SHIFT_DEG))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turned = np.stack(
        [luma, 128 + cos * (blue - 128) - sin * (red - 128), 128 + sin * (blue - 128) + cos * (red - 128)]
    )
    return Image.fromarray(np.moveaxis(turned, 0, 2).round().clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")

"""Pictures and captions that an export in another format is compared by, from file to embedding.

Random tensors would say that weights and layers are right, but not that a picture reaches them as it should.
"""

import io
from typing import Any

import numpy as np

CAPTIONS = ["a picture of one", "two, in the RAIN", "x", "Zürich & 12 cafés!", "a very long caption " * 20]

# Twice as wide as high, or the other way: what is cut off on both sides is then a whole number of pixels, which all
# libraries place alike.
_SIZES = ((320, 160), (170, 340), (24, 24))


def pictures() -> list[Any]:
    """RGB images, as read from PNG files: wide, high, and smaller than most models; edges, waves and noise."""
    from PIL import Image

    found = []
    for width, height in _SIZES:
        y, x = np.mgrid[0:height, 0:width]
        waves = 127 + 120 * np.sin(x / 7) * np.cos(y / 5)
        noise = np.random.default_rng(width).integers(0, 256, (height, width))
        channels = np.stack([waves, 255 * (2 * x > width), noise], axis=-1)
        file = io.BytesIO()
        Image.fromarray(channels.astype(np.uint8)).save(file, "PNG")
        found.append(Image.open(file))
    return found

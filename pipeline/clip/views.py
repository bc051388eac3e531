"""Views: random augmentations of an image, drawn by seed, and made again from what was written down.

The embedding stage draws a view, shows it to the teacher and stores its parameters beside the embedding; the trainer
makes the view again from those parameters, so that the student is shown what the teacher saw. A view is cut out of the
stored image and keeps its pixels: each model resizes and normalizes it in its own way, as it would any image.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from pipeline.core.settings import Section


class AugmentationConfig(Section):
    """How views are drawn, where there are several; see `views`."""

    min_crop: float = Field(
        0.4,
        description="Smallest share of the largest square in the image that a view is cut out of; the largest is all "
        "of it (unconfirmed).",
        gt=0,
        le=1,
    )
    flip_probability: float = Field(0.5, description="How often a view is mirrored (unconfirmed).", ge=0, le=1)
    brightness: float = Field(
        0.0, description="Brightness is multiplied by 1 plus or minus up to this (unconfirmed).", ge=0, le=1
    )
    contrast: float = Field(0.0, description="The same for contrast (unconfirmed).", ge=0, le=1)
    saturation: float = Field(0.0, description="The same for saturation (unconfirmed).", ge=0, le=1)
    seed: int = Field(0, description="Seed of the views, beside `image_id` and the number of the view.")


_COLORS = ("brightness", "contrast", "saturation")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What makes a view of an image, in this order: cut out, mirror, then change colors by the factors (1: none).

    The cut is a square, in pixels of the stored image: models that crop the middle of what they are given, and models
    that squash it, then see the same.
    """

    crop_left: int
    crop_top: int
    crop_side: int
    flip: bool
    brightness: float
    contrast: float
    saturation: float


FIELDS = tuple(field.name for field in dataclasses.fields(View))


def draw_view(config: AugmentationConfig, *, image_id: int, number: int, width: int, height: int) -> View:
    """View ``number`` of a sample whose image has ``width`` x ``height`` pixels; the same on every machine."""
    area, across, down, mirror, *colors = _uniform(config.seed, image_id, number, count=4 + len(_COLORS))
    share = config.min_crop + (1 - config.min_crop) * area
    side = max(round(min(width, height) * math.sqrt(share)), 1)
    strengths = [getattr(config, name) for name in _COLORS]
    return View(
        crop_left=round((width - side) * across),
        crop_top=round((height - side) * down),
        crop_side=side,
        flip=mirror < config.flip_probability,
        # Rounded to what a float32 column and a JSON number both hold exactly.
        **{name: round((1 + (2 * u - 1) * s) * 256) / 256 for name, s, u in zip(_COLORS, strengths, colors)},
    )


def apply_view(image: Any, view: View) -> Any:
    """The view of an RGB PIL image, as an image of ``crop_side`` x ``crop_side`` pixels."""
    from PIL import ImageEnhance, ImageOps

    left, top, side = view.crop_left, view.crop_top, view.crop_side
    image = image.crop((left, top, left + side, top + side))
    if view.flip:
        image = ImageOps.mirror(image)
    for enhance, factor in (
        (ImageEnhance.Brightness, view.brightness),
        (ImageEnhance.Contrast, view.contrast),
        (ImageEnhance.Color, view.saturation),
    ):
        if factor != 1:
            image = enhance(image).enhance(factor)
    return image


def as_columns(views: Sequence[View]) -> dict[str, list[Any]]:
    """The parameters of many views, by the names of their columns."""
    return {name: [getattr(view, name) for view in views] for name in FIELDS}


def _uniform(*key: int, count: int) -> list[float]:
    """Numbers in [0, 1) from a hash of the key: unlike a generator's, they change with no library's version."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8 * count).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") / 2**64 for i in range(count)]

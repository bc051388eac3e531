"""The held-out styles as evaluation sets, in the WebDataset layout of CLIP_benchmark.

``emoji_openmoji`` and ``emoji_fluent`` have one image of each emoji that both styles have, without skin tones, and its
name as the class; ``emoji_subgroups`` has the images of both, by Unicode's subgroups.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.emoji.captions import PROMPTS
from benchmarks.emoji.catalog import Emoji
from pipeline.core.tars import sample_bytes, write_samples

SUBGROUPS = "emoji_subgroups"
SIZE = 64
"""Pixels of a side, as the vendors' images have."""

# Drawn larger and then made smaller, so that what is cut off costs no sharpness.
_DRAWN = 256
# Of the side, on each of the four; the vendors' have about that.
_MARGIN = 1 / 32

Draw = Callable[[Sequence[str], int], Sequence[bytes]]


def write_evaluation_sets(
    folder: Path, catalog: Sequence[Emoji], styles: Mapping[str, Mapping[str, str]], draw: Draw
) -> dict[str, int]:
    """Write a set for each style, and one of all by subgroups; the number of classes of each.

    Args:
        folder: where sets are written, each below its name.
        catalog: all emoji; those that have no skin tone and stand in every style are the classes, in this order.
        styles: SVG by code, by the name of the set.
        draw: from SVG to PNG of a size.
    """
    classes = [
        emoji for emoji in catalog if not emoji.skin_tone and all(emoji.code in style for style in styles.values())
    ]
    subgroups = sorted({emoji.subgroup for emoji in classes})
    numbers = [subgroups.index(emoji.subgroup) for emoji in classes]
    drawn = {
        name: [trimmed(png) for png in draw([style[emoji.code] for emoji in classes], _DRAWN)]
        for name, style in styles.items()
    }
    for name, images in drawn.items():
        _write(folder / name, [emoji.name for emoji in classes], images, range(len(classes)))
    together = [image for images in drawn.values() for image in images]
    names = [subgroup.replace("-", " ") for subgroup in subgroups]
    _write(folder / SUBGROUPS, names, together, numbers * len(drawn))
    return {**{name: len(classes) for name in drawn}, SUBGROUPS: len(subgroups)}


def trimmed(png: bytes, size: int = SIZE) -> bytes:
    """What is drawn on the transparent image, in the middle of a white square of ``size`` pixels, filling it.

    The styles leave margins of their own, OpenMoji a fifth on each side.
    """
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    side = round(max(image.size) * (1 + 2 * _MARGIN))
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    written = io.BytesIO()
    square.resize((size, size), Image.Resampling.LANCZOS).save(written, "PNG")
    return written.getvalue()


def _write(folder: Path, names: Sequence[str], images: Sequence[bytes], classes: Sequence[int]) -> None:
    (folder / "test").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "classnames.txt", names)
    _write_lines(folder / "zeroshot_classification_templates.txt", PROMPTS)
    _write_lines(folder / "test" / "nshards.txt", ["1"])
    write_samples(
        (
            sample_bytes(f"{number:06d}", {"png": image, "cls": str(class_).encode()})
            for number, (image, class_) in enumerate(zip(images, classes))
        ),
        folder / "test" / "0.tar",
    )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))

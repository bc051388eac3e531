"""Images and captions like those of the web, made by chance."""

import io
import random
import tarfile
from pathlib import Path
from typing import Any

_WORDS = "a photo of the small red wooden boat house dog on green hill in summer".split()  # noqa: SIM905


def captions(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(_WORDS, k=draw.randint(3, 30))) for _ in range(count)]


def photograph(number: int, *, pixels: int) -> bytes:
    """A JPEG of about the bytes of a photograph: coarse noise made smooth."""
    import numpy as np
    from PIL import Image

    coarse = np.random.default_rng(number).integers(0, 256, (pixels // 8, pixels // 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC).save(data, "JPEG", quality=95)
    return data.getvalue()


def write_photographs(tar: Path, *, count: int, pixels: int, different: int = 128) -> None:
    """A tar of ``count`` samples as the download writes them, of so many ``different`` images."""
    images = [photograph(number, pixels=pixels) for number in range(min(count, different))]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for number, caption in enumerate(captions(count)):
            members = {
                "jpg": images[number % len(images)],
                "txt": caption.encode(),
                "json": b'{"image_id": %d}' % number,
            }
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def rows_of(tar: Path) -> list[dict[str, Any]]:
    """What the embedding stage is given of such a tar: rows of its index with the caption of each image."""
    from pipeline.core.tars import index_tar

    rows = index_tar(tar).to_pylist()
    return [{**row, "captions": [(row["image_id"], text)]} for row, text in zip(rows, captions(len(rows)))]

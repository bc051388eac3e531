"""How far copies of a test image lie from it, and what else is as near: to choose ``balance.decontaminate.threshold``.

On the demo's root, which has to be there (``make demo``), with its own teacher: each test image of its evaluation set,
and copies of it as they are found on the web. No training image is such a copy, so whatever of these is within a
distance would be left out without need.
"""

import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipeline.clip.model import LoadedClip, load_clip
from pipeline.neighbors import near_pairs_between
from pipeline.teacher.stage import teacher_folder
from pipeline.vectors.write import EmbeddingWriter
from training.evaluation.datasets import read_evaluation_set

_ROOT = Path("data/demo")
_DISTANCES = (0.1, 0.2)
_BATCH = 64
_BICUBIC = Image.Resampling.BICUBIC


def measure(root: Path = _ROOT) -> list[dict[str, Any]]:
    """A row for each kind of copy, then one for each distance."""
    (folder,) = [path.parent for path in (root / "demo").rglob("classnames.txt")]
    images = [Image.open(io.BytesIO(image.read())).convert("RGB") for image in read_evaluation_set(folder).test.images]
    clip = load_clip(teacher_folder(root))
    whole = _embedded(clip, images)
    rng = np.random.default_rng(0)
    copies: dict[str, Callable[[Any], Any]] = {
        "JPEG 95": lambda image: _jpeg(image, 95),
        "JPEG 50": lambda image: _jpeg(image, 50),
        "half as wide and high": lambda image: image.resize([side // 2 for side in image.size], _BICUBIC),
        "cropped by up to 2 %": lambda image: _cropped(image, rng),
    }
    rows: list[dict[str, Any]] = []
    for name, change in copies.items():
        distances = np.linalg.norm(_embedded(clip, map(change, images)) - whole, axis=1)
        quantiles = np.quantile(distances, [0.5, 0.99])
        rows.append({"copy": name, "median": round(quantiles[0], 3), "99 of 100": round(quantiles[1], 3)})
    return rows + [_within(root, whole, distance) for distance in _DISTANCES]


def _within(root: Path, vectors: np.ndarray, distance: float) -> dict[str, Any]:
    from pipeline.core import schema

    training = sorted((root / "teacher_embeddings").glob("*.parquet"))
    with tempfile.TemporaryDirectory() as folder:
        test, pairs = Path(folder) / "test.parquet", Path(folder) / "pairs.parquet"
        with EmbeddingWriter(test, schema.teacher_embeddings(vectors.shape[1])) as writer:
            writer.add({"image_id": np.arange(len(vectors)), "image_embedding": vectors})
        near_pairs_between(test, training, pairs, max_distance=distance, id_column_a="image_id", id_column_b="image_id")
        found = pq.read_table(pairs)
    return {
        "within": distance,
        "training_images": len(set(found["id_b"].to_pylist())),
        "of": sum(pq.read_metadata(path).num_rows for path in training),
        "test_images": len(set(found["id_a"].to_pylist())),
        "of_test_images": len(vectors),
    }


def _embedded(clip: LoadedClip, images: Iterable[Any]) -> np.ndarray:
    import torch

    pixels = [clip.preprocess(image) for image in images]
    with torch.inference_mode():
        parts = [
            clip.model.encode_image(torch.stack(pixels[start : start + _BATCH]).to(clip.device), normalize=True)
            for start in range(0, len(pixels), _BATCH)
        ]
    return np.asarray(torch.cat(parts).float().cpu(), np.float64)


def _jpeg(image: Any, quality: int) -> Any:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _cropped(image: Any, rng: np.random.Generator) -> Any:
    left, top, right, bottom = rng.uniform(0, 0.02, 4)
    width, height = image.size
    return image.crop((left * width, top * height, (1 - right) * width, (1 - bottom) * height))

"""Stored embeddings against the teacher itself: a sample is embedded anew, one by one, by plain open_clip in fp32."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clip.model import LoadedClip, load_clip
from pipeline.clip.precision import full_precision
from pipeline.clip.preprocessing import decode_image
from pipeline.clip.views import FIELDS, View, apply_view
from pipeline.core import parquet
from pipeline.core.devices import gpu_memory_returned
from pipeline.core.errors import EmbeddingError
from pipeline.core.remote_tar import image_of
from pipeline.core.tars import read_index
from pipeline.embeddings.shard import CAPTIONS, EMBEDDINGS, VIEWS
from pipeline.storage.result import read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.samples import stored_sample
from pipeline.teacher.stage import teacher_folder

_SHARDS = 4


@gpu_memory_returned()
def live_cosines(root: Path, *, samples: int, device: str = "auto") -> dict[str, float]:
    """Least cosine of images and captions, of about ``samples`` samples from all over the data."""
    found: dict[str, list[float]] = {"image": [], "text": []}
    clip = load_clip(teacher_folder(root), device=device)
    source = {path.stem: path for path in read_result(root, "source_pairs").parquet("source_pairs")}
    for path, wanted in _chosen(root, EMBEDDINGS, EMBEDDINGS, "image_id", samples):
        stored = parquet.read_table(path, filters=[("image_id", "in", wanted)]).to_pylist()
        for row, members in _with_members(root, path.stem, stored):
            live_image = _embed_image(clip, decode_image(image_of(members)))
            found["image"].append(_cosine(live_image, row["image_embedding"]))
    for path, wanted in _chosen(root, EMBEDDINGS, CAPTIONS, "sample_id", samples):
        chosen: dict[str, Any] = {"filters": [("sample_id", "in", wanted)]}
        listed = parquet.read_table(source[path.stem], columns=["sample_id", "caption"], **chosen)
        captions = dict(zip(listed["sample_id"].to_pylist(), listed["caption"].to_pylist()))
        for row in parquet.read_table(path, **chosen).to_pylist():
            live_text = _embed_text(clip, captions[row["sample_id"]])
            found["text"].append(_cosine(live_text, row["text_embedding"]))
    return {"samples": len(found["image"]), **{f"min_cosine_{name}": min(values) for name, values in found.items()}}


@gpu_memory_returned()
def live_view_cosines(root: Path, *, samples: int, device: str = "auto") -> dict[str, float]:
    """Least cosine of all views of about ``samples`` samples, made again from their parameters; no cosine without."""
    cosines: list[float] = []
    clip = None
    for path, wanted in _chosen(root, VIEWS, VIEWS, "image_id", samples):
        clip = clip or load_clip(teacher_folder(root), device=device)
        stored = parquet.read_table(path, filters=[("image_id", "in", wanted)]).to_pylist()
        for row, members in _with_members(root, path.stem, stored):
            view = apply_view(decode_image(image_of(members)), View(**{name: row[name] for name in FIELDS}))
            cosines.append(_cosine(_embed_image(clip, view), row["image_embedding"]))
    return {"views": len(cosines)} | ({"min_cosine": min(cosines)} if cosines else {})


def _chosen(root: Path, stage: str, table: str, id_: str, samples: int) -> Iterator[tuple[Path, list[int]]]:
    """Files from first to last, and ids from each, evenly spaced."""
    files = read_result(root, stage).parquet(table)
    for path in _spread(files, _SHARDS):
        ids = np.unique(parquet.read_table(path, columns=[id_])[id_].to_numpy())
        yield path, [int(id_) for id_ in _spread(ids.tolist(), -(-samples // min(_SHARDS, len(files))))]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    if not values:
        return []
    return [values[int(place)] for place in np.linspace(0, len(values) - 1, min(count, len(values))).round()]


def _with_members(
    root: Path, shard: str, rows: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Each row with the members of its sample."""
    ids, storage = list({row["image_id"] for row in rows}), storage_of(root)
    storage.fetch([f"images/index/{shard}.parquet"])
    index = read_index(root / "images" / "index" / f"{shard}.parquet")
    wanted = index.filter(pc.is_in(index["image_id"], pa.array(ids)))
    places = {row["image_id"]: row for row in wanted.to_pylist()}
    missing = set(ids) - set(places)
    if missing:
        raise EmbeddingError(f"images/{shard}.tar has no image {min(missing)}, which has an embedding")
    for row in rows:
        yield row, stored_sample(root, shard, places[row["image_id"]])


def _embed_image(clip: LoadedClip, image: Any) -> np.ndarray:
    import torch

    with torch.inference_mode(), full_precision():
        return np.asarray(clip.model.encode_image(clip.preprocess(image)[None].to(clip.device)).float().cpu())[0]


def _embed_text(clip: LoadedClip, caption: str) -> np.ndarray:
    import torch

    with torch.inference_mode(), full_precision():
        return np.asarray(clip.model.encode_text(clip.tokenizer([caption]).to(clip.device)).float().cpu())[0]


def _cosine(live: np.ndarray, stored: Any) -> float:
    vector = np.asarray(stored, np.float64)
    return float(live.astype(np.float64) @ vector / np.linalg.norm(live) / np.linalg.norm(vector))

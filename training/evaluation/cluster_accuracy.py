"""Where the student fails: image-to-text retrieval within a sample of its training pairs, cluster by cluster, beside
the same by the teacher's cached embeddings.

The sample is the first images of the training shards. Those are in the order of a hash of id and seed
(``shards.seed``), so any prefix is a uniform draw, the same for every student that is trained on them.
"""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.clip.model import LoadedClip, load_clip
from pipeline.core import parquet, schema
from pipeline.core.devices import gpu_memory_returned
from pipeline.core.errors import EmbeddingError, ShardError
from pipeline.core.remote_tar import image_of
from pipeline.core.tars import Place, TarReader, read_index
from training.evaluation.datasets import ImageMember, Split
from training.evaluation.features import image_features, text_features
from training.evaluation.retrieval import image_hits, unique_texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Training images, each with its first caption, and what the teacher and k-means say of them.

    ``clusters``: ``(N,)`` int64; ``teacher_image`` and ``teacher_text``: ``(N, D)`` float32 of unit length.
    """

    images: Split
    captions: list[str]
    clusters: np.ndarray
    teacher_image: Tensor
    teacher_text: Tensor


@gpu_memory_returned()
def cluster_accuracy(student: Path, pool: Pool, *, batch_size: int = 256, device: str = "auto") -> pa.Table:
    """``schema.CLUSTER_ACCURACY``, a row for each cluster that an image of the pool belongs to.

    An accuracy is the share of a cluster's images whose own caption is nearer than any other of the whole pool
    (:func:`training.evaluation.retrieval.image_hits`): of the student's embeddings, and of the teacher's. ``gap`` is
    the teacher's less the student's: what of the teacher the student has not learned.

    ``student`` is an open_clip folder. Raises :class:`ShardError` for an image that cannot be decoded, and
    :class:`EmbeddingError` for features that are not finite.
    """
    clip = load_clip(student, device=device)
    return by_cluster(pool.clusters, student=_student_hits(clip, pool, batch_size), teacher=_teacher_hits(pool))


def by_cluster(clusters: np.ndarray, *, student: np.ndarray, teacher: np.ndarray) -> pa.Table:
    """The table, of the cluster of each image and of whether it is a hit: ``(N,)`` each."""
    ids, place, images = np.unique(clusters, return_inverse=True, return_counts=True)
    accuracies = [np.bincount(place, weights=hits, minlength=len(ids)) / images for hits in (student, teacher)]
    columns = [ids, images, *accuracies, accuracies[1] - accuracies[0]]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema.CLUSTER_ACCURACY)],
        schema=schema.CLUSTER_ACCURACY,
    )


def _student_hits(clip: LoadedClip, pool: Pool, batch_size: int) -> np.ndarray:
    texts, _, ids = unique_texts([[caption] for caption in pool.captions])
    images = image_features(clip, pool.images, batch_size=batch_size)
    return _hits(images, text_features(clip, texts, batch_size=batch_size), ids, clip.device)


def _teacher_hits(pool: Pool) -> np.ndarray:
    """Of captions that read alike the first embedding stands for all."""
    _, _, ids = unique_texts([[caption] for caption in pool.captions])
    first = np.unique(ids.numpy(), return_index=True)[1]
    return _hits(pool.teacher_image, pool.teacher_text[first], ids, "cpu")


def _hits(images: Tensor, texts: Tensor, ids: Tensor, device: str) -> np.ndarray:
    numbers = torch.arange(len(images))
    return image_hits(*(tensor.to(device) for tensor in (images, texts, numbers, ids))).cpu().numpy()


def first_shards(shards: Path, count: int) -> list[str]:
    """The names of the shards in which the first ``count`` images of a folder of training shards lie."""
    names: list[str] = []
    for path in sorted((shards / "index").glob("*.parquet")):
        if count <= 0:
            break
        names.append(path.stem)
        with parquet.reading(path):
            count -= pq.read_metadata(path).num_rows
    return names


def read_pool(shards: Path, count: int) -> Pool:
    """The first ``count`` images of a folder of training shards, or all if there are fewer; no pixels yet.

    Raises :class:`ShardError` that names tar and key for a sample without one of its members, and
    :class:`EmbeddingError` for an embedding that is none.
    """
    found = list(_first(shards, count))
    if not found:
        raise ShardError(f"{shards}: no training sample in it")
    images, captions, clusters, image, text = zip(*found)
    return Pool(
        images=Split(name="training images", images=images, labels=(), captions=()),
        captions=list(captions),
        clusters=np.array(clusters, np.int64),
        teacher_image=_unit(image),
        teacher_text=_unit(text),
    )


def _unit(vectors: tuple[np.ndarray, ...]) -> Tensor:
    return F.normalize(torch.from_numpy(np.stack(vectors).astype(np.float32)), dim=1)


def _first(shards: Path, count: int) -> "Iterator[tuple[_StoredImage, str, int, np.ndarray, np.ndarray]]":
    for name in first_shards(shards, count):
        tar = shards / f"{name}.tar"
        reader = TarReader(tar)
        for row in read_index(shards / "index" / f"{name}.parquet").slice(0, count).to_pylist():
            place = Place.of(row)
            yield _sample(reader.sample(*place), _StoredImage(tar, row["key"], *place))
            count -= 1


def _sample(
    members: dict[str, bytes], image: "_StoredImage"
) -> "tuple[_StoredImage, str, int, np.ndarray, np.ndarray]":
    where = f"{image.tar}, key {image.key}"
    try:
        facts = json.loads(members["json"])
        caption = (facts.get("captions") or [members["txt"].decode()])[0]
        vectors = [np.atleast_2d(np.load(io.BytesIO(members[f"{name}.npy"])))[0] for name in ("image", "text")]
        cluster = int(facts["cluster_id"])
    except KeyError as error:
        raise ShardError(f"{where}: {error} is missing; members found: {', '.join(sorted(members))}") from error
    except (ValueError, EOFError) as error:
        raise EmbeddingError(f"{where}: no readable .json and .npy: {error}") from error
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise EmbeddingError(f"{where}: a teacher embedding is not finite")
    return image, caption, cluster, vectors[0], vectors[1]


@dataclasses.dataclass(frozen=True, slots=True)
class _StoredImage(ImageMember):
    """An image of a training shard; offset and size are those of its whole sample."""

    crc32: int | None = None

    def read(self) -> bytes:
        return image_of(TarReader(self.tar).sample(self.offset, self.size, self.crc32))

"""Evaluation images in the teacher's space, embedded as the training images were, so that the same image has the same
embedding, up to rounding."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.clip.preprocessing import decode_image
from pipeline.core import schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.progress import Progress
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.embedder import Embedder, cpu_threads, teacher_kept
from pipeline.teacher.stage import read_info, teacher_folder
from pipeline.vectors.write import EmbeddingWriter
from training.evaluation.datasets import Split
from training.evaluation.features import decoded

log = logging.getLogger(__name__)


def write_embeddings(root: Path, splits: Sequence[Split], config: EmbeddingsConfig, path: Path) -> None:
    """Write ``number, image_embedding`` of all images of the splits, numbered through, by the root's teacher.

    Raises :class:`pipeline.core.errors.ShardError` for an image that cannot be decoded, naming its tar and key, and
    :class:`EmbeddingError` for vectors that are not finite.
    """
    teacher = read_info(root)
    vector = schema.teacher_embeddings(teacher.embed_dim).field("image_embedding")
    columns = pa.schema([pa.field("number", pa.int64(), nullable=False), vector])
    total = sum(len(split) for split in splits)
    with (
        teacher_kept(),
        cpu_threads(config.threads),
        EmbeddingWriter(path, columns) as writer,
        Progress(log, "evaluation_leaks", total=total, unit="images") as progress,
    ):
        encoder = Embedder.open(teacher_folder(root), teacher.weights_hash, config).encoder

        def pixels(data: bytes) -> Tensor:
            return torch.tensor(encoder.preprocessing.pixels(decode_image(data)))

        for split in splits:
            for batch in decoded(split.images, pixels, config.batch_size, config.decode_threads):
                vectors, _ = encoder.fetch(encoder.images(batch, batch_size=config.batch_size), None)()
                if not np.isfinite(vectors).all():
                    raise EmbeddingError(f"embeddings of {split.name} by teacher {teacher.name} are not finite")
                writer.add({"number": np.arange(writer.rows, writer.rows + len(vectors)), "image_embedding": vectors})
                progress.add(len(vectors))

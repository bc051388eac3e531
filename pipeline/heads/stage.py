"""Stage ``scores``: a shard of image embeddings in, a number per image and head out, without a look at any pixel."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.files import file_digest
from pipeline.core.progress import Progress
from pipeline.heads.config import HeadConfig
from pipeline.heads.layers import Head, read_heads
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from pipeline.vectors.read import list_matrix

log = logging.getLogger(__name__)

SCORES = "scores"
_EMBEDDINGS, _COLUMN = "teacher_embeddings", "image_embedding"
# The one shard where there is no head, since a stage has at least one.
_OFF = "off"
_BATCH_ROWS = 8192


def score_images(root: Path, heads: Mapping[str, HeadConfig]) -> StageResult:
    """Stage ``scores``: ``image_id`` and a float32 column for each head, for every row of ``teacher_embeddings``.

    Without heads it is complete and has no rows. Raises :class:`pipeline.core.errors.ConfigError` for a head that is
    none for these embeddings, before anything is computed, and :class:`EmbeddingError` for a score that is not finite.
    """
    if not heads:
        # Scores that there were are removed.
        return Stage(root, SCORES, version=1, config={}, inputs={_OFF: None}).each(lambda output: None)
    embeddings = read_result(root, _EMBEDDINGS)
    # The same weights from another place are the same.
    digests = {name: head.content() | {"weights": _digest(head, name)} for name, head in heads.items()}
    stage = Stage(root, SCORES, version=1, config=digests, inputs=embeddings.shard_digests)

    def work(pending: list[str]) -> None:
        names = {shard: f"{_EMBEDDINGS}/{shard}.parquet" for shard in pending}
        read: list[Head] = []
        with Progress(log, SCORES, total=len(pending), unit="shards") as progress:
            for shard, name in names.items():
                with storage_of(root).borrowed([name]):
                    read = read or read_heads(heads, width=_width(root / name))
                    with stage.output(shard) as output:
                        _write(root / name, read, output, shard)
                progress.add(1)

    return stage.run(work)


def _digest(head: HeadConfig, name: str) -> str:
    """Of the weights, which are read first: what is wrong with them is known before the stage is run."""
    read_heads({name: head})
    return file_digest(Path(head.weights))


def _width(path: Path) -> int | None:
    return parquet.open_file(path).schema_arrow.field(_COLUMN).type.list_size


def _write(path: Path, heads: list[Head], output: Output, shard: str) -> None:
    columns = [schema.IMAGE_ID, *(pa.field(head.name, pa.float32(), nullable=False) for head in heads)]
    table = pa.schema(columns)
    with (
        parquet.reading(path, EmbeddingError),
        parquet.writer(output.path(f"{SCORES}/{shard}.parquet"), table, compression="zstd") as writer,
    ):
        file = parquet.open_file(path, pre_buffer=False)
        for batch in file.iter_batches(_BATCH_ROWS, columns=[schema.IMAGE_ID.name, _COLUMN]):
            ids = batch.column(schema.IMAGE_ID.name)
            vectors = list_matrix(batch.column(_COLUMN), what=f"{path}, column {_COLUMN}")
            scores = [pa.array(_finite(head, vectors, ids, shard), pa.float32()) for head in heads if len(ids)]
            if scores:
                writer.write_batch(pa.record_batch([ids, *scores], schema=table))
            output.rows += len(ids)


def _finite(head: Head, vectors_ND: np.ndarray, ids: pa.Array, shard: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        scores = head.score(vectors_ND)
    bad = ~np.isfinite(scores)
    if bad.any():
        raise EmbeddingError(
            f"shard {shard}: {int(bad.sum())} scores of head {head.name} are not finite, "
            f"e.g. of image_id {ids[int(np.argmax(bad))].as_py()}"
        )
    return scores

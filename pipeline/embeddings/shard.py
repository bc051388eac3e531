"""One shard of images and captions to embeddings, published as soon as it is whole, in whatever process this is."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from pipeline.clip.views import as_columns
from pipeline.core import parquet, schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.remote_tar import open_tar
from pipeline.core.tars import read_index
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from pipeline.teacher.stage import read_info, teacher_folder
from pipeline.vectors.write import EmbeddingWriter

if TYPE_CHECKING:
    from pipeline.embeddings.loader import Batch, Unreadable

EMBEDDINGS, CAPTIONS, VIEWS = "teacher_embeddings", "caption_embeddings", "teacher_views"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that a worker needs to embed one shard; small and picklable. ``files``: names under the root that
    it reads; ``ids``: images to embed, none means all."""

    shard: str
    root: Path
    stage: Stage
    output: Path
    config: EmbeddingsConfig
    files: tuple[str, ...]
    ids: np.ndarray | None = None

    @property
    def captions(self) -> Path:
        """Where embeddings of captions are written, if there are any."""
        return self.output.with_suffix(".captions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a worker says of a shard: rows written, of them ``captions`` beside those of images, seconds of work and, in
    ``waited_s``, of waiting for batches."""

    task: ShardTask
    rows: int
    captions: int
    unreadable: "Sequence[Unreadable]" = ()
    seconds: float
    waited_s: float


def publish_images(task: ShardTask) -> ShardReport:
    """Embed one shard and publish it, on whatever machine this is: of the root it needs the shard and the teacher."""
    return _publish(task, embed_shard)


def publish_views(task: ShardTask) -> ShardReport:
    """The same for the views of one shard."""
    return _publish(task, embed_view_shard)


def _publish(task: ShardTask, embed: Callable[[ShardTask], ShardReport]) -> ShardReport:
    task.stage.attach()
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with storage_of(task.root).borrowed(task.files), task.stage.output(task.shard) as output:
        report = embed(task)
        task.output.replace(output.path(f"{task.stage.name}/{task.shard}.parquet"))
        if task.captions.exists():
            task.captions.replace(output.path(f"{CAPTIONS}/{task.shard}.parquet"))
        output.rows = report.rows
        output.stats = {"embedding_s": round(report.seconds, 3), "loader_wait_s": round(report.waited_s, 3)}
        output.stats |= {"captions": report.captions} if report.captions else {}
        if report.unreadable:
            _tell(report.unreadable, output, task.shard)
    return report


def _tell(unreadable: "Sequence[Unreadable]", output: Output, shard: str) -> None:
    """List images that were adopted and cannot be decoded; there is nothing else to be made of them."""
    columns = {"image_id": [image.image_id for image in unreadable], "error": [image.error for image in unreadable]}
    table = pa.table(columns, schema=schema.UNREADABLE_IMAGES)
    parquet.write_table(table, output.path(f"unreadable_images/{shard}.parquet"), compression="zstd")
    output.stats |= {"unreadable": len(unreadable), "unreadable_captions": sum(image.captions for image in unreadable)}


def embed_shard(task: ShardTask) -> ShardReport:
    """Embed images and captions of one shard into ``task.output`` and ``task.captions``, in any process."""
    rows = _with_captions(task.root, task.shard, _rows(task))
    with _Embedding(task, schema.teacher_embeddings) as embedding:
        captions = schema.caption_embeddings(embedding.dim).with_metadata(embedding.metadata)
        with EmbeddingWriter(task.captions, captions) as beside:
            unreadable: list[Unreadable] = []
            for batch, images, texts in embedding.run(rows, views=0):
                unreadable += batch.unreadable
                if texts is None:
                    continue
                embedding.writer.add({"image_id": batch.image_ids, "image_embedding": images})
                described = images.astype(np.float32)[batch.image_of]
                beside.add(
                    {
                        "sample_id": batch.sample_ids,
                        "image_id": [batch.image_ids[place] for place in batch.image_of],
                        "text_embedding": texts,
                        # Of what is stored, as a query would compute it.
                        "image_text_similarity": np.einsum("ij,ij->i", described, texts.astype(np.float32)),
                    }
                )
    return dataclasses.replace(embedding.report(), captions=beside.rows, unreadable=unreadable)


def embed_view_shard(task: ShardTask) -> ShardReport:
    """Embed the views of one shard's images into ``task.output``, in any process."""
    count = task.config.views
    rows = [{**row, "captions": []} for row in _rows(task)]
    with _Embedding(task, schema.teacher_views) as embedding:
        for batch, images, _ in embedding.run(rows, views=count):
            numbers = np.tile(np.arange(count), len(batch.image_ids))
            made = {"image_id": np.repeat(batch.image_ids, count), "view": numbers, **as_columns(batch.views)}
            embedding.writer.add({**made, "image_embedding": images})
    return embedding.report()


class _Embedding(contextlib.ExitStack):
    """The teacher at work on one shard: a writer of what it makes of images, and batches that were looked at."""

    def __init__(self, task: ShardTask, table_schema: Callable[[int], pa.Schema]):
        super().__init__()
        from pipeline.embeddings.embedder import Embedder, cpu_threads

        teacher = read_info(task.root)
        self._task, self._teacher, self.dim = task, teacher.name, teacher.embed_dim
        self._embedder = Embedder.open(teacher_folder(task.root), teacher.weights_hash, task.config)
        self.metadata = {key: str(value) for key, value in dataclasses.asdict(teacher).items()}
        self.writer = EmbeddingWriter(task.output, table_schema(self.dim).with_metadata(self.metadata))
        # Around all of it, since a compiled model is compiled anew for another number of threads.
        self._threads = cpu_threads(task.config.threads)

    def __enter__(self) -> Self:
        self.enter_context(self._threads)
        self.enter_context(self.writer)
        return self

    def run(self, rows: list[dict[str, Any]], *, views: int) -> "Iterator[tuple[Batch, np.ndarray, np.ndarray | None]]":
        """Raises :class:`EmbeddingError` for vectors that are not finite."""
        task = self._task
        reader = open_tar(task.root, task.shard, rows[0]["tar"]) if rows else None
        self._run = self._embedder.run(reader, rows, views=views)
        for batch, images, texts in self._run:
            for name, vectors, ids in (("image", images, batch.image_ids), ("text", texts, batch.sample_ids)):
                if vectors is not None and not np.isfinite(vectors).all():
                    raise _not_finite(self._task.shard, self._teacher, name, vectors, ids)
            yield batch, images, texts

    def report(self) -> ShardReport:
        """What to say when all is written."""
        run = self._run
        return ShardReport(
            task=self._task, rows=self.writer.rows, captions=0, seconds=run.seconds, waited_s=run.waited_s
        )


def _rows(task: ShardTask) -> list[dict[str, Any]]:
    """Rows of the tar's index that are to be embedded."""
    return [row for row in read_index(_index(task.root, task.shard)).to_pylist() if _wanted(task, row)]


def _with_captions(root: Path, shard: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the captions that ``source_pairs`` has for their images."""
    table = parquet.read_table(root / "source_pairs" / f"{shard}.parquet", columns=["image_id", "sample_id", "caption"])
    captions: dict[int, list[tuple[int, str]]] = {row["image_id"]: [] for row in rows}
    for image_id, sample_id, caption in zip(*(column.to_pylist() for column in table.columns)):
        if image_id in captions:
            captions[image_id].append((sample_id, caption))
    return [{**row, "captions": captions[row["image_id"]]} for row in rows]


def _wanted(task: ShardTask, row: dict[str, Any]) -> bool:
    if task.ids is None:
        return True
    place = int(np.searchsorted(task.ids, row["image_id"]))
    return place < len(task.ids) and int(task.ids[place]) == row["image_id"]


def _not_finite(shard: str, teacher: str, name: str, vectors: np.ndarray, ids: list[int]) -> EmbeddingError:
    bad = ~np.isfinite(vectors).reshape(len(ids), -1).all(axis=1)
    return EmbeddingError(
        f"shard {shard}: {int(bad.sum())} {name} embeddings of teacher {teacher} are not finite, "
        f"e.g. of {'image_id' if name == 'image' else 'sample_id'} {ids[int(np.argmax(bad))]}"
    )


def _index(root: Path, shard: str) -> Path:
    return root / "images" / "index" / f"{shard}.parquet"

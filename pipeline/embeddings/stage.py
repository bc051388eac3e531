"""Teacher embeddings: a shard of images and captions in, a Parquet file of float16 unit vectors out.

Two stages work in the same way. ``teacher_embeddings`` has every image as it is, and its caption. ``teacher_views`` has
random augmentations of the images that the balance kept, for a student that is to be trained on what the teacher saw.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.clip.views import as_columns
from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import parquet, schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.files import fingerprint_of
from pipeline.core.progress import Progress
from pipeline.core.tars import TarReader, read_index
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import read_info, teacher_folder
from pipeline.vectors.write import EmbeddingWriter

if TYPE_CHECKING:
    from pipeline.embeddings.loader import Batch

log = logging.getLogger(__name__)

EMBEDDINGS, VIEWS = "teacher_embeddings", "teacher_views"
# The one shard of the views where there are none, since a stage has at least one.
_OFF = "off"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that a worker needs to embed one shard; small and picklable. ``ids``: samples to embed, none means all."""

    shard: str
    root: Path
    stage: Stage
    output: Path
    config: EmbeddingsConfig
    ids: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a worker says of a shard: rows written, seconds of work and, in ``waited_s``, of waiting for batches."""

    task: ShardTask
    rows: int
    seconds: float
    waited_s: float


def embed_images(root: Path, config: EmbeddingsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``teacher_embeddings``: image and text embeddings of every downloaded pair, one file per shard.

    Raises :class:`EmbeddingError` for vectors that are not finite and for a precision that turns them too far,
    :class:`ShardError` for an unreadable image or tar.
    """
    inputs = _inputs(root)
    stage = Stage(root, EMBEDDINGS, version=2, config=config.plain(), inputs=inputs)
    return _run(stage, publish_images, config, compute, ids=dict.fromkeys(inputs))


def embed_views(root: Path, config: EmbeddingsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``teacher_views``: embeddings of ``config.views`` augmentations of every image that the balance kept.

    Without augmentation (``views`` 1) it is complete and has no rows. Raises what :func:`embed_images` raises.
    """
    if config.views == 1:
        # Views that there were are removed.
        return Stage(root, VIEWS, version=1, config=config.content(), inputs={_OFF: None}).each(lambda output: None)
    inputs = _inputs(root)
    kept = _kept_ids(read_result(root, "balance").parquet("balanced_pairs"))
    inputs = {shard: fingerprint_of(inputs[shard], ids.tolist()) for shard, ids in kept.items()}
    stage = Stage(root, VIEWS, version=1, config=config.content(), inputs=inputs)
    return _run(stage, publish_views, config, compute, ids=kept)


def loader_stall(result: StageResult) -> float:
    """Share of the time that the model waited for images, over all shards of the stage, whenever they were made."""
    return _share(result.stats.get("loader_wait_s", 0.0), result.stats.get("embedding_s", 0.0))


def publish_images(task: ShardTask) -> ShardReport:
    """Embed one shard and publish it, on whatever machine this is: of the root it needs the shard and the teacher."""
    return _publish(task, embed_shard)


def publish_views(task: ShardTask) -> ShardReport:
    """The same for the views of one shard."""
    return _publish(task, embed_view_shard)


def _publish(task: ShardTask, embed: Callable[[ShardTask], ShardReport]) -> ShardReport:
    task.stage.attach()
    task.output.parent.mkdir(parents=True, exist_ok=True)
    names = (f"images/{task.shard}.tar", f"images/index/{task.shard}.parquet")
    with storage_of(task.root).borrowed(names), task.stage.output(task.shard) as output:
        report = embed(task)
        task.output.replace(output.path(f"{task.stage.name}/{task.shard}.parquet"))
        output.rows = report.rows
        output.stats = {"embedding_s": round(report.seconds, 3), "loader_wait_s": round(report.waited_s, 3)}
    return report


def embed_shard(task: ShardTask) -> ShardReport:
    """Embed images and captions of one shard into ``task.output``, in any process."""

    def columns(batch: "Batch", images: np.ndarray, texts: np.ndarray | None) -> dict[str, Any]:
        return {"sample_id": batch.sample_ids, "image_embedding": images, "text_embedding": texts}

    return _embed(task, schema.teacher_embeddings, columns, views=0)


def embed_view_shard(task: ShardTask) -> ShardReport:
    """Embed the views of one shard's images into ``task.output``, in any process."""
    count = task.config.views

    def columns(batch: "Batch", images: np.ndarray, texts: np.ndarray | None) -> dict[str, Any]:
        del texts
        numbers = np.tile(np.arange(count), len(batch.sample_ids))
        ids = np.repeat(batch.sample_ids, count)
        return {"sample_id": ids, "view": numbers, **as_columns(batch.views), "image_embedding": images}

    return _embed(task, schema.teacher_views, columns, views=count)


def _run(
    stage: Stage,
    work: Callable[[ShardTask], ShardReport],
    config: EmbeddingsConfig,
    compute: ComputeConfig,
    *,
    ids: Mapping[str, np.ndarray | None],
) -> StageResult:
    """Do what is left of a stage; ``ids``: which samples of each shard."""

    def embed(pending: list[str]) -> None:
        from pipeline.embeddings.embedder import teacher_kept

        marks = read_result(stage.root, "images").shard_marks()
        counts = {shard: mark.stats["downloaded"] for shard, mark in marks.items()}
        counts |= {shard: len(wanted) for shard, wanted in ids.items() if wanted is not None}
        scratch = stage.root / ".tmp" / stage.name
        tasks = [
            ShardTask(
                shard=shard,
                root=stage.root,
                stage=stage.only(shard),
                output=scratch / f"{shard}.parquet",
                config=config,
                ids=ids.get(shard),
            )
            for shard in pending
        ]
        with (
            # Whatever comes next in this process, the training for one, finds a GPU's memory free.
            teacher_kept(),
            Progress(log, stage.name, total=sum(counts[shard] for shard in pending), unit="images") as progress,
            map_shards(work, tasks, compute, keeps_state=True, device=config.device) as finished,
        ):
            for report in finished:
                stage.done_elsewhere(report.task.shard)
                stall = _share(report.waited_s, report.seconds)
                progress.add(counts[report.task.shard], f"loader stall {stall:.1%}")

    result = stage.run(embed)
    if result.computed:
        seconds = result.stats["embedding_s"]
        log.info(f"{stage.name}: {result.rows:,} rows, loader stall {loader_stall(result):.1%} of {seconds:.1f} s")
    return result


def _embed(
    task: ShardTask,
    table_schema: Callable[[int], pa.Schema],
    columns: Callable[["Batch", np.ndarray, np.ndarray | None], dict[str, Any]],
    *,
    views: int,
) -> ShardReport:
    from pipeline.embeddings.embedder import Embedder, cpu_threads

    teacher = read_info(task.root)
    rows = [row for row in read_index(_index(task.root, task.shard)).to_pylist() if _wanted(task, row)]
    embedder = Embedder.open(teacher_folder(task.root), teacher.weights_hash, task.config)
    reader = TarReader(task.root / "images" / f"{task.shard}.tar")
    metadata = {key: str(value) for key, value in dataclasses.asdict(teacher).items()}
    table = table_schema(teacher.embed_dim).with_metadata(metadata)
    with cpu_threads(task.config.threads), EmbeddingWriter(task.output, table) as writer:
        # Within, since a compiled model is compiled anew for another number of threads.
        run = embedder.run(reader, rows, views=views)
        for batch, images, texts in run:
            for name, vectors in (("image", images), ("text", texts)):
                if vectors is not None and not np.isfinite(vectors).all():
                    raise _not_finite(task.shard, teacher.name, name, vectors, batch.sample_ids)
            writer.add(columns(batch, images, texts))
    return ShardReport(task=task, rows=writer.rows, seconds=run.seconds, waited_s=run.waited_s)


def _inputs(root: Path) -> dict[str, str]:
    """What each shard of images is embedded from."""
    teacher = read_result(root, "teacher")
    images = read_result(root, "images").shard_digests
    return {shard: fingerprint_of(digest, teacher.digest) for shard, digest in images.items()}


def _kept_ids(pairs: list[Path]) -> dict[str, np.ndarray]:
    """Ids of the kept images by shard, ascending."""
    kept = pa.concat_tables(parquet.read_table(path, columns=["sample_id", "shard"]) for path in pairs)
    ids, shards = kept["sample_id"].to_numpy(), kept["shard"].combine_chunks().dictionary_encode()
    codes = shards.indices.to_numpy()
    order = np.lexsort((ids, codes))
    parts = np.split(ids[order], np.flatnonzero(np.diff(codes[order])) + 1) if len(ids) else []
    return {shards.dictionary[int(code)].as_py(): part for code, part in zip(np.unique(codes), parts)}


def _wanted(task: ShardTask, row: dict[str, Any]) -> bool:
    if task.ids is None:
        return True
    place = int(np.searchsorted(task.ids, row["sample_id"]))
    return place < len(task.ids) and int(task.ids[place]) == row["sample_id"]


def _not_finite(shard: str, teacher: str, name: str, vectors: np.ndarray, ids: list[int]) -> EmbeddingError:
    bad = ~np.isfinite(vectors).reshape(len(ids), -1).all(axis=1)
    return EmbeddingError(
        f"shard {shard}: {int(bad.sum())} {name} embeddings of teacher {teacher} are not finite, "
        f"e.g. of sample_id {ids[int(np.argmax(bad))]}"
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _index(root: Path, shard: str) -> Path:
    return root / "images" / "index" / f"{shard}.parquet"

"""Teacher embeddings: a shard of images and captions in, a Parquet file of float16 unit vectors out.

Two stages work in the same way. ``teacher_embeddings`` has every image as it is, once, and beside it in
``caption_embeddings`` each of its captions, which are those of ``source_pairs``. ``teacher_views`` has random
augmentations of the images that the balance kept, for a student that is to be trained on what the teacher saw.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import parquet
from pipeline.core.files import fingerprint_of
from pipeline.core.progress import Progress
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.shard import EMBEDDINGS, VIEWS, ShardReport, ShardTask, publish_images, publish_views
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Stage

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

# The one shard of the views where there are none, since a stage has at least one.
_OFF = "off"


def embed_images(root: Path, config: EmbeddingsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``teacher_embeddings``: embeddings of every image that is there and of its captions, two files per shard.

    Raises :class:`EmbeddingError` for vectors that are not finite and for a precision that turns them too far,
    :class:`ShardError` for an unreadable image or tar.
    """
    source = read_result(root, "source_pairs").file_digests("source_pairs")
    inputs = {shard: fingerprint_of(made_of, source[shard]) for shard, made_of in _inputs(root).items()}
    stage = Stage(root, EMBEDDINGS, version=3, config=config.plain(), inputs=inputs)
    return _run(stage, publish_images, config, compute, ids=dict.fromkeys(inputs))


def embed_views(root: Path, config: EmbeddingsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``teacher_views``: embeddings of ``config.views`` augmentations of every image that the balance kept.

    Without augmentation (``views`` 1) it is complete and has no rows. Raises what :func:`embed_images` raises.
    """
    if config.views == 1:
        # Views that there were are removed.
        return Stage(root, VIEWS, version=2, config=config.content(), inputs={_OFF: None}).each(lambda output: None)
    inputs, balance = _inputs(root), read_result(root, "balance")
    kept = _kept_ids(balance.parquet("balanced_pairs"))
    # Those that were purged since need no other views of the rest.
    purged = {shard: np.array(ids, np.int64) for shard, ids in balance.stats.get("purged_kept", {}).items()}
    kept = {shard: kept.get(shard, np.empty(0, np.int64)) for shard in sorted({*kept, *purged})}
    every = {shard: np.union1d(ids, purged.get(shard, ids)) for shard, ids in kept.items()}
    inputs = {shard: fingerprint_of(inputs[shard], ids.tolist()) for shard, ids in every.items()}
    stage = Stage(root, VIEWS, version=2, config=config.content(), inputs=inputs)
    return _run(stage, publish_views, config, compute, ids=kept)


def loader_stall(result: StageResult) -> float:
    """Share of the time that the model waited for images, over all shards of the stage, whenever they were made."""
    return _share(result.stats.get("loader_wait_s", 0.0), result.stats.get("embedding_s", 0.0))


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
        counts = {shard: mark.stats.get("downloaded", mark.stats.get("adopted", 0)) for shard, mark in marks.items()}
        counts |= {shard: len(wanted) for shard, wanted in ids.items() if wanted is not None}
        scratch = stage.root / ".tmp" / stage.name
        tasks = [
            ShardTask(
                shard=shard,
                root=stage.root,
                stage=stage.only(shard),
                output=scratch / f"{shard}.parquet",
                config=config,
                # Of images that were there before, the tar is elsewhere.
                files=(*(name for name in marks[shard].files if not _is_status(name)), f"source_pairs/{shard}.parquet"),
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


def _is_status(name: str) -> bool:
    """Whether it is the table of statuses among a shard's files of ``images``."""
    return name.count("/") == 1 and name.endswith(".parquet")


def _inputs(root: Path) -> dict[str, str]:
    """What each shard of images is embedded from."""
    teacher = read_result(root, "teacher")
    images = read_result(root, "images").shard_digests
    return {shard: fingerprint_of(digest, teacher.digest) for shard, digest in images.items()}


def _kept_ids(pairs: list[Path]) -> dict[str, np.ndarray]:
    """Ids of the kept images by shard, ascending."""
    kept = pa.concat_tables(parquet.read_table(path, columns=["image_id", "shard"]) for path in pairs)
    ids, shards = kept["image_id"].to_numpy(), kept["shard"].combine_chunks().dictionary_encode()
    codes = shards.indices.to_numpy()
    order = np.lexsort((ids, codes))
    parts = np.split(ids[order], np.flatnonzero(np.diff(codes[order])) + 1) if len(ids) else []
    # An image stands there once for each of its captions.
    return {shards.dictionary[int(code)].as_py(): np.unique(part) for code, part in zip(np.unique(codes), parts)}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

"""``teacher`` and ``teacher_embeddings``."""

from pathlib import Path

import dagster as dg

from assets.page.metadata import materialization
from assets.resources import SettingsResource
from assets.source import images
from pipeline.demo.stage import teacher_identity
from pipeline.storage.result import StageResult


@dg.asset(group_name="curation", kinds={"pytorch"})
def teacher(settings: SettingsResource) -> dg.MaterializeResult:
    """The teacher CLIP as a hashed open_clip folder; the demo trains its own."""
    from pipeline.teacher.stage import resolve_teacher

    config = settings.resolve()

    def demo(folder: Path) -> None:
        from pipeline.demo.teacher import train_demo_teacher

        train_demo_teacher(folder, config.demo)

    result = resolve_teacher(config.path, config.teacher, demo=demo, demo_identity=teacher_identity(config.demo))
    return materialization(result, config.path, "teacher")


@dg.asset(group_name="curation", kinds={"pytorch", "parquet"}, deps=[teacher, images], pool="gpu")
def teacher_embeddings(settings: SettingsResource) -> dg.MaterializeResult:
    """Normalized float16 embeddings of every image, and beside them in `caption_embeddings` of its captions."""
    from pipeline.embeddings.stage import embed_images

    config = settings.resolve()
    result = embed_images(config.path, config.embeddings, config.compute)
    return materialization(result, config.path, "teacher_embeddings", extra=_speed(result))


@dg.asset(group_name="curation", kinds={"safetensors", "parquet"}, deps=[teacher_embeddings])
def scores(settings: SettingsResource) -> dg.MaterializeResult:
    """A number per image from each of `embeddings.heads`, small networks on the embeddings; none without."""
    from pipeline.heads.stage import score_images

    config = settings.resolve()
    result = score_images(config.path, config.embeddings.heads)
    return materialization(result, config.path, "scores")


@dg.asset(group_name="distillation", kinds={"pytorch", "parquet"}, deps=[teacher, images, "balanced_pairs"], pool="gpu")
def teacher_views(settings: SettingsResource) -> dg.MaterializeResult:
    """The teacher's embeddings of random views of the kept images, where `embeddings.views` asks for them."""
    from pipeline.embeddings.stage import embed_views

    config = settings.resolve()
    result = embed_views(config.path, config.embeddings, config.compute)
    return materialization(result, config.path, "teacher_views", extra=_speed(result))


def _speed(result: StageResult) -> dict[str, float]:
    """Of the work on all shards, summed over worker processes."""
    from pipeline.embeddings.stage import loader_stall

    seconds = result.stats.get("embedding_s", 0.0)
    return {
        "loader_stall": round(loader_stall(result), 4),
        "images_per_second": round(result.rows / seconds, 1) if seconds else 0.0,
    }

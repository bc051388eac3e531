"""``teacher`` and ``teacher_embeddings``."""

from pathlib import Path

import dagster as dg

from assets.metadata import materialization
from assets.resources import SettingsResource
from assets.source import images
from pipeline.demo.stage import teacher_identity


@dg.asset(group_name="curation", kinds={"pytorch"})
def teacher(settings: SettingsResource) -> dg.MaterializeResult:
    """The teacher CLIP as a hashed open_clip folder; the demo trains its own."""
    from pipeline.teacher import resolve_teacher

    config = settings.resolve()

    def demo(folder: Path) -> None:
        from pipeline.demo.teacher import train_demo_teacher

        train_demo_teacher(folder, config.demo)

    result = resolve_teacher(config.path, config.teacher, demo=demo, demo_identity=teacher_identity(config.demo))
    return materialization(result, config.path, "teacher")


@dg.asset(group_name="curation", kinds={"pytorch", "parquet"}, deps=[teacher, images], pool="gpu")
def teacher_embeddings(settings: SettingsResource) -> dg.MaterializeResult:
    """Normalised float16 embeddings of every downloaded image and its caption."""
    from pipeline.embed import embed_images

    config = settings.resolve()
    result = embed_images(config.path, config.embeddings, config.compute)
    return materialization(result, config.path, "teacher_embeddings")

"""The clusters of the kept images."""

from collections.abc import Iterator

import dagster as dg

from assets.page.metadata import materialization
from assets.resources import SettingsResource

_TABLES = {
    "centroids": "Cluster centers in the teacher's embedding space.",
    "cluster_assignments": "The nearest center of every kept image.",
}


@dg.multi_asset(
    name="clusters",
    group_name="curation",
    pool="gpu",
    specs=[
        dg.AssetSpec(name, description=text, kinds={"faiss", "parquet"}, deps=["balanced_pairs", "teacher_embeddings"])
        for name, text in _TABLES.items()
    ],
)
def clusters(settings: SettingsResource) -> Iterator[dg.MaterializeResult]:
    """faiss k-means on the teacher's embeddings of the kept images."""
    from assets.page.pictures import cluster_pictures
    from pipeline.clusters.stage import cluster_images

    config = settings.resolve()
    result = cluster_images(config.path, config.clusters)
    pictures = cluster_pictures(result, config)
    for table in _TABLES:
        yield materialization(result, config.path, table, asset_key=table, extra=pictures.get(table))

"""``source_pairs`` and ``images``: from URL lists to downloaded, resized, packed images."""

import dagster as dg

from assets.page.metadata import materialization
from assets.resources import SettingsResource
from pipeline.demo.stage import reachable, resolve_lists
from pipeline.own_images.config import OwnImages


@dg.asset(group_name="curation", kinds={"duckdb", "parquet"})
def source_pairs(settings: SettingsResource) -> dg.MaterializeResult:
    """URLs and captions from the configured lists, each with the ids of image and pair; exact repeats dropped."""
    from pipeline.own_images import import_own_pairs
    from pipeline.source.stage import import_pairs

    config = settings.resolve()
    if config.source.images:
        own = OwnImages.of(config.source)
        result = import_own_pairs(config.path, own, config.query, config.compute)
    else:
        lists = resolve_lists(config.source.lists, config.path, config.demo)
        result = import_pairs(config.path, config.source, config.query, lists=lists)
    return materialization(result, config.path, "source_pairs")


@dg.asset(group_name="curation", kinds={"img2dataset", "webdataset"}, deps=[source_pairs])
def images(settings: SettingsResource) -> dg.MaterializeResult:
    """Images fetched by img2dataset into WebDataset tars, or adopted where they lie, with a status for each."""
    from assets.page.pictures import download_outcomes
    from pipeline.download.resize import Resizer
    from pipeline.download.stage import download_images
    from pipeline.own_images import adopt_images

    config = settings.resolve()
    if config.source.images:
        resizer = Resizer(**config.images.resizing()) if config.source.resize else None
        result = adopt_images(config.path, OwnImages.of(config.source), resizer)
        return materialization(result, config.path, "images", extra=download_outcomes(result, config))
    with reachable(config.source.lists, config.path, config.images) as images_config:
        result = download_images(config.path, images_config, config.compute)
    return materialization(result, config.path, "images", extra=download_outcomes(result, config))

"""``near_duplicates`` and the balance: who is near whom, and who stays."""

from collections.abc import Iterable, Iterator

import dagster as dg

from assets.embeddings import scores, teacher_embeddings
from assets.page.metadata import materialization
from assets.resources import SettingsResource
from pipeline.demo.stage import resolve_datasets

_TABLES = {
    "balanced_pairs": "The filtered pairs: one image of every group of near-duplicates, with its captions.",
    "balance_groups": "Every image's group, its distance to the group's center, and whether it is kept.",
    "removed_pairs": "Every removed image and the one that was kept in its place.",
    "blocked_pairs": "Images on the blocklist, which no later stage uses.",
    "filtered_pairs": "Pairs that `balance.where` is not true for, or that are evaluation leaks, and why.",
}


@dg.asset(group_name="curation", kinds={"scipy", "parquet"}, deps=[teacher_embeddings], pool="gpu")
def near_duplicates(settings: SettingsResource) -> dg.MaterializeResult:
    """Minimum spanning forest of all pairs of images up to `neighbors.max_distance`: every threshold in one table."""
    from pipeline.neighbors.stage import build_forest

    config = settings.resolve()
    result = build_forest(config.path, config.neighbors, config.compute)
    return materialization(result, config.path, "near_duplicates")


@dg.asset(group_name="curation", kinds={"pytorch", "parquet"}, deps=[teacher_embeddings], pool="gpu")
def evaluation_leaks(settings: SettingsResource) -> dg.MaterializeResult:
    """Training images that are copies of test images of `balance.decontaminate.datasets`; none without data sets."""
    from assets.page.pictures import leak_pictures
    from training.decontamination.stage import find_leaks, read_test_images

    config = settings.resolve()
    wanted = config.balance.decontaminate
    datasets = resolve_datasets(wanted.datasets, config.path, config.demo)
    result = find_leaks(
        config.path,
        wanted,
        datasets=datasets,
        embeddings=config.embeddings,
        neighbors=config.neighbors,
        compute=config.compute,
    )

    def images(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        return read_test_images(datasets, keys)

    return materialization(result, config.path, "evaluation_leaks", extra=leak_pictures(result, config, images))


_DEPS = [near_duplicates, teacher_embeddings, scores, evaluation_leaks]


@dg.multi_asset(
    name="balance",
    group_name="curation",
    specs=[
        dg.AssetSpec(name, description=text, kinds={"duckdb", "parquet"}, deps=_DEPS) for name, text in _TABLES.items()
    ],
)
def balance(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[dg.MaterializeResult]:
    """Groups of near-duplicates at the threshold, and the image that stands for each."""
    from assets.page.advice import threshold_advice
    from assets.page.pictures import balance_pictures
    from assets.page.summary import balance_summary
    from pipeline.balance.stage import balance_pairs

    config = settings.resolve()
    result = balance_pairs(config.path, config.balance, config.query)
    pictures = balance_pictures(result, config)
    pictures["balanced_pairs"] |= threshold_advice(config)
    context.log.info(balance_summary(result, config))
    for table in _TABLES:
        yield materialization(result, config.path, table, asset_key=table, extra=pictures.get(table))

"""``evaluation``: teacher, student and baseline side by side."""

import dagster as dg

from assets.embeddings import teacher
from assets.page.metadata import materialization
from assets.resources import SettingsResource
from assets.student import baseline, student
from pipeline.demo.stage import resolve_datasets


@dg.asset(
    group_name="distillation",
    kinds={"open_clip", "parquet"},
    deps=[teacher, student, baseline, "evaluation_leaks"],
    pool="gpu",
)
def evaluation(context: dg.AssetExecutionContext, settings: SettingsResource) -> dg.MaterializeResult:
    """Zero-shot classification, linear probe and retrieval; also without test images that leaked, if some did. Where
    the student falls behind the teacher on its training images, by cluster."""
    from assets.page.pictures import cluster_accuracy_pictures, evaluation_pictures
    from assets.page.summary import evaluation_summary
    from training.evaluation.stage import evaluate_models, measure_clusters

    config = settings.resolve()
    datasets = resolve_datasets(config.evaluation.datasets, config.path, config.demo)
    result = evaluate_models(
        config.path,
        config.evaluation,
        datasets=datasets,
        baseline=config.baseline.enabled,
        decontaminated=bool(config.balance.decontaminate.datasets),
    )
    pictures = evaluation_pictures(result, config)
    if config.evaluation.cluster_samples:
        pictures |= cluster_accuracy_pictures(measure_clusters(config.path, config.evaluation), config)
    context.log.info(evaluation_summary(result, config))
    return materialization(result, config.path, "evaluation", extra=pictures)

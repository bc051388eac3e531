"""``ablation_results``: which data and which losses make the better student, measured seed by seed."""

import dagster as dg

from assets.page.metadata import materialization
from assets.resources import SettingsResource
from pipeline.demo.stage import resolve_datasets
from pipeline.storage.roots import storage_of


@dg.asset(
    group_name="ablation",
    kinds={"deepspeed", "pytorch", "parquet"},
    deps=["images", "teacher_embeddings", "balance_groups", "centroids"],
    pool="gpu",
)
def ablation_results(context: dg.AssetExecutionContext, settings: SettingsResource) -> dg.MaterializeResult:
    """The same student and number of steps for every choice of data, losses and seed. Goes on where it was ended."""
    from assets.page.ablation_plot import ablation_bars, markdown_image
    from training.ablation.stage import run_ablation, summary

    config = settings.resolve()
    result = run_ablation(
        config.path,
        config.ablation,
        config.student,
        config.evaluation,
        shards=config.shards,
        query=config.query,
        datasets=resolve_datasets(config.evaluation.datasets, config.path, config.demo),
        on_cell=lambda name, number, cells: context.log.info(f"{name}: {number} of {cells} cells to do"),
    )
    rows = summary(result.parquet("ablation"))
    picture = ablation_bars(rows, full=config.path / "pictures" / "ablation.png")
    storage_of(config.path).upload(["pictures/ablation.png"])
    extra = {
        "zero-shot top-1": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows]),
        "figure": dg.MetadataValue.md(markdown_image(picture, "ablation")),
    }
    return materialization(result, config.path, "ablation", extra=extra)

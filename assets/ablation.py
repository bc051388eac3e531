"""``ablation_results``: which data and which losses make the better student, measured seed by seed."""

from typing import Any

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
    """The same student for every choice of data, losses and seed, at equal steps or epochs. Goes on where it was ended;
    what was trained for another grid is taken from it."""
    from assets.page.ablation_plot import ablation_bars, ablation_curves, markdown_image
    from assets.tools.ablation_report import differences
    from training.ablation.points import at_end, means, points
    from training.ablation.stage import run_ablation

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
    found = points(result.parquet("ablation"))
    rows = means(at_end(found))
    pictures = {"ablation": ablation_bars(rows, full=config.path / "pictures" / "ablation.png")}
    if len(found) > len(at_end(found)):
        full = config.path / "pictures" / "ablation_curves.png"
        pictures["ablation_curves"] = ablation_curves(means(found), full=full)
    storage_of(config.path).upload([f"pictures/{name}.png" for name in pictures])
    columns = ("axis", "data", "losses", "steps", "mean", "spread", "seeds")
    records = [dg.TableRecord({name: row[name] for name in columns}) for row in rows]
    extra: dict[str, Any] = {}
    if records:
        extra["zero-shot top-1"] = dg.MetadataValue.table(records=records)
        extra["differences within a seed"] = dg.MetadataValue.md(differences(found))
    extra |= {name: dg.MetadataValue.md(markdown_image(picture, name)) for name, picture in pictures.items()}
    return materialization(result, config.path, "ablation", extra=extra)

"""Asset checks: what must hold before the next stage is worth its time. Blocking ones stop what depends on them."""

from typing import Any

import dagster as dg

from assets.resources import SettingsResource
from assets.settings import Settings

_STAGES = {
    "balance_groups": "balance",
    "balanced_pairs": "balance",
    "removed_pairs": "balance",
    "blocked_pairs": "balance",
    "centroids": "clusters",
    "cluster_assignments": "clusters",
    "training_metrics": "student",
}
"""Stages that do not have the name of the table that they make."""


def _one(config: Settings, name: str, *, package: str = "assets", **tables: str) -> dict[str, Any]:
    """The first row of a named query; each parameter names a table, which is passed as its files."""
    from pipeline.core import query
    from pipeline.storage.result import read_result

    files = {
        parameter: query.files(read_result(config.path, _STAGES.get(table, table)).parquet(table))
        for parameter, table in tables.items()
    }
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        row = query.one(connection, query.sql(package, name), files)
    assert row is not None
    return row


@dg.asset_check(asset="source_pairs", blocking=True)
def sample_ids_unique(settings: SettingsResource) -> dg.AssetCheckResult:
    """Every `sample_id` stands once."""
    found = _one(settings.resolve(), "check_source", pairs="source_pairs")
    return dg.AssetCheckResult(passed=found["repeated"] == 0 and found["pairs"] > 0, metadata=found)


@dg.asset_check(asset="images", blocking=True)
def enough_downloaded(settings: SettingsResource) -> dg.AssetCheckResult:
    """Every pair has a status, and at least `checks.min_success_rate` of them an image."""
    config = settings.resolve()
    found = _one(config, "check_images", images="images", pairs="source_pairs")
    passed = found["without_status"] == 0 and found["success_rate"] >= config.checks.min_success_rate
    return dg.AssetCheckResult(passed=passed, metadata=found | {"at_least": config.checks.min_success_rate})


@dg.asset_check(asset="teacher_embeddings", blocking=True)
def embeddings_sound(settings: SettingsResource) -> dg.AssetCheckResult:
    """Finite, of unit length, and one for every downloaded image."""
    found = _one(settings.resolve(), "check_embeddings", embeddings="teacher_embeddings", images="images")
    passed = not (found["not_unit_length"] or found["without_embedding"] or found["without_image"])
    return dg.AssetCheckResult(passed=passed, metadata=found)


@dg.asset_check(asset="teacher_embeddings", blocking=True)
def embeddings_match_live(settings: SettingsResource) -> dg.AssetCheckResult:
    """On a sample, plain open_clip computes the embeddings that are stored."""
    from pipeline.embeddings.verify import live_cosines

    config = settings.resolve()
    if not config.checks.live_samples:
        return dg.AssetCheckResult(passed=True, metadata={"samples": 0})
    found = live_cosines(config.path, samples=config.checks.live_samples, device=config.embeddings.device)
    bound = config.checks.min_embedding_cosine
    passed = min(found["least_cosine_image"], found["least_cosine_text"]) >= bound
    return dg.AssetCheckResult(passed=passed, metadata=found | {"at_least": bound})


@dg.asset_check(asset="teacher_views", blocking=True)
def views_match_live(settings: SettingsResource) -> dg.AssetCheckResult:
    """On a sample, every view is made again from its parameters, and has the embedding that is stored."""
    from pipeline.embeddings.verify import live_view_cosines

    config = settings.resolve()
    if not config.checks.live_samples or config.embeddings.views == 1:
        return dg.AssetCheckResult(passed=True, metadata={"views": 0})
    found = live_view_cosines(config.path, samples=config.checks.live_samples, device=config.embeddings.device)
    bound = config.checks.min_embedding_cosine
    return dg.AssetCheckResult(passed=found["least_cosine"] >= bound, metadata=found | {"at_least": bound})


@dg.asset_check(asset="balance_groups", blocking=True)
def one_survivor_per_group(settings: SettingsResource) -> dg.AssetCheckResult:
    """Each group keeps exactly one image; kept, removed and blocked together are the input; no blocked one is used."""
    found = _one(
        settings.resolve(),
        "check_balance",
        groups="balance_groups",
        balanced="balanced_pairs",
        removed="removed_pairs",
        blocked="blocked_pairs",
        embeddings="teacher_embeddings",
    )
    wrong = (
        "groups_without_one_survivor",
        "kept_not_in_balanced",
        "removed_without_survivor",
        "missing",
        "blocked_but_used",
    )
    return dg.AssetCheckResult(passed=not any(found[name] for name in wrong), metadata=found)


@dg.asset_check(asset="balance_groups", blocking=True)
def no_group_swallows_all(settings: SettingsResource) -> dg.AssetCheckResult:
    """Single linkage can chain: the largest group holds at most `checks.max_group_share` of the images not blocked."""
    config = settings.resolve()
    found = _one(config, "balance_counts", package="pipeline.balance", groups="balance_groups")
    passed = found["largest_group_share"] <= config.checks.max_group_share
    return dg.AssetCheckResult(passed=passed, metadata=found | {"at_most": config.checks.max_group_share})


@dg.asset_check(asset="cluster_assignments", blocking=True)
def clusters_filled(settings: SettingsResource) -> dg.AssetCheckResult:
    """At most `checks.max_empty_clusters` of the clusters are empty; every kept image has a label."""
    config = settings.resolve()
    found = _one(
        config, "check_clusters", centroids="centroids", assignments="cluster_assignments", balanced="balanced_pairs"
    )
    passed = found["empty_share"] <= config.checks.max_empty_clusters and found["without_label"] == 0
    return dg.AssetCheckResult(passed=passed, metadata=found | {"at_most": config.checks.max_empty_clusters})


@dg.asset_check(asset="student", blocking=True)
def training_loss_fell(settings: SettingsResource) -> dg.AssetCheckResult:
    """The mean loss of the last tenth of the rows is below that of the first."""
    found = _one(settings.resolve(), "check_training", metrics="training_metrics")
    return dg.AssetCheckResult(passed=bool(found["last_loss"] < found["first_loss"]), metadata=found)


@dg.asset_check(asset="student", blocking=True)
def export_reloads(settings: SettingsResource) -> dg.AssetCheckResult:
    """Plain open_clip loads the export and computes the embeddings that the trained module computed."""
    from pipeline.storage.result import read_result
    from training.export.check import export_cosine

    config = settings.resolve()
    cosine = export_cosine(read_result(config.path, "student").folder("student"))
    bound = config.checks.min_export_cosine
    return dg.AssetCheckResult(passed=cosine >= bound, metadata={"least_cosine": cosine, "at_least": bound})


CHECKS = [
    sample_ids_unique,
    enough_downloaded,
    embeddings_sound,
    embeddings_match_live,
    views_match_live,
    one_survivor_per_group,
    no_group_swallows_all,
    clusters_filled,
    training_loss_fell,
    export_reloads,
]

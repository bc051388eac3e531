"""Asset checks: what must hold before the next stage is worth its time. Blocking ones stop what depends on them.

One that fails says in its description, and in the log, what was found, what was asked for, which setting to change and
which picture to look at.
"""

from typing import Any

import dagster as dg

from assets.resources import SettingsResource
from assets.settings import Settings
from assets.verdicts import compared, made_anew, one_row, picture, verdict


@dg.asset_check(asset="source_pairs", blocking=True)
def sample_ids_unique(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Every `sample_id` stands once."""
    found = one_row(settings.resolve(), "check_source", pairs="source_pairs")
    otherwise = (
        f"{found['repeated']:,} of {found['pairs']:,} pairs have the sample_id of another. {made_anew('source_pairs')}"
        if found["pairs"]
        else "There is not a single pair: source.lists name files without rows that have a URL and a caption."
    )
    return verdict(context, found, passed=found["repeated"] == 0 and found["pairs"] > 0, otherwise=otherwise)


@dg.asset_check(asset="images", blocking=True)
def enough_downloaded(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Every pair has a status, and at least `checks.min_success_rate` of them an image."""
    config = settings.resolve()
    found = one_row(config, "check_images", images="images", pairs="source_pairs")
    bound = config.checks.min_success_rate
    otherwise = (
        f"{found['without_status']:,} pairs have no status. {made_anew('images')}"
        if found["without_status"]
        else f"{found['success_rate']:.1%} of the pairs have an image, {found['downloaded']:,} in all; "
        f"checks.min_success_rate asks for {bound:.1%}. images.retry_statuses fetches what may come at another time; "
        f"if no more is to be had, lower the bound. {picture(config, 'download')}"
    )
    passed = found["without_status"] == 0 and found["success_rate"] >= bound
    return verdict(context, found | {"at_least": bound}, passed=passed, otherwise=otherwise)


@dg.asset_check(asset="teacher_embeddings", blocking=True)
def embeddings_sound(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Finite, of unit length, and one for every downloaded image and each of its captions."""
    from pipeline.storage.result import read_result

    config = settings.resolve()
    found = one_row(
        config,
        "check_embeddings",
        embeddings="teacher_embeddings",
        captions="caption_embeddings",
        images="images",
        pairs="source_pairs",
    )
    # Adopted images that cannot be decoded are listed in `unreadable_images`.
    stats = read_result(config.path, "teacher_embeddings").stats
    found["without_embedding"] -= stats.get("unreadable", 0)
    found["captions_without_embedding"] -= stats.get("unreadable_captions", 0)
    names = ("not_unit_length", "without_embedding", "without_image", "captions_without_embedding")
    passed = not any(found[name] for name in names)
    otherwise = (
        f"Of {found['embeddings']:,} embeddings {found['not_unit_length']:,} are not finite or not of unit length and "
        f"{found['without_image']:,} have no image; {found['without_embedding']:,} images and "
        f"{found['captions_without_embedding']:,} captions have none. With "
        "embeddings.precision fp16 a large teacher can overflow: bf16 or fp32 does not. Else remove "
        ".marks/teacher_embeddings under the root, so that they are made anew."
    )
    return verdict(context, found, passed=passed, otherwise=otherwise)


@dg.asset_check(asset="teacher_embeddings", blocking=True)
def embeddings_match_live(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """On a sample, plain open_clip computes the embeddings that are stored."""
    from pipeline.embeddings.verify import live_cosines

    config = settings.resolve()
    if not config.checks.live_samples:
        return dg.AssetCheckResult(passed=True, metadata={"samples": 0})

    def compare() -> dict[str, Any]:
        return live_cosines(config.path, samples=config.checks.live_samples, device=config.embeddings.device)

    found = compared(
        config, "embeddings_match_live", ("images", "teacher", "teacher_embeddings"), compare, by=live_cosines
    )
    least = min(found["min_cosine_image"], found["min_cosine_text"])
    return _cosines(context, config, found, least, stage="teacher_embeddings")


@dg.asset_check(asset="teacher_views", blocking=True)
def views_match_live(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """On a sample, every view is made again from its parameters, and has the embedding that is stored."""
    from pipeline.embeddings.verify import live_view_cosines

    config = settings.resolve()
    if not config.checks.live_samples or config.embeddings.views == 1:
        return dg.AssetCheckResult(passed=True, metadata={"views": 0})

    def compare() -> dict[str, Any]:
        return live_view_cosines(config.path, samples=config.checks.live_samples, device=config.embeddings.device)

    found = compared(config, "views_match_live", ("images", "teacher", "teacher_views"), compare, by=live_view_cosines)
    return _cosines(context, config, found, found["min_cosine"], stage="teacher_views")


def _cosines(
    context: dg.AssetCheckExecutionContext, config: Settings, found: dict[str, float], least: float, *, stage: str
) -> dg.AssetCheckResult:
    bound = config.checks.min_embedding_cosine
    otherwise = (
        f"The least cosine of a stored embedding with one computed now is {least:.5f}; checks.min_embedding_cosine "
        f"asks for {bound}. embeddings.precision is {config.embeddings.precision}, whose rounding the bound has to "
        "allow. If it is fp32, the teacher or images were changed after they were embedded: remove "
        f".marks/{stage} under the root, so that they are embedded anew."
    )
    return verdict(context, found | {"at_least": bound}, passed=least >= bound, otherwise=otherwise)


@dg.asset_check(asset="balance_groups", blocking=True)
def one_survivor_per_group(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Each group keeps one image, or `balance.keep_per_group`; kept, removed, blocked and filtered pairs together are
    the input; no blocked or filtered one is used."""
    config = settings.resolve()
    found = one_row(
        config,
        "check_balance",
        values={"keep_per_group": config.balance.keep_per_group},
        groups="balance_groups",
        balanced="balanced_pairs",
        removed="removed_pairs",
        blocked="blocked_pairs",
        filtered="filtered_pairs",
        captions="caption_embeddings",
    )
    names = (
        "groups_without_one_survivor",
        "kept_not_in_balanced",
        "removed_without_survivor",
        "missing",
        "blocked_but_used",
        "filtered_but_used",
    )
    wrong = [f"{name} {found[name]:,}" for name in names if found[name]]
    otherwise = f"Of {found['images']:,} images: {', '.join(wrong)}; each should be 0. {made_anew('balance')}"
    return verdict(context, found, passed=not wrong, otherwise=otherwise)


@dg.asset_check(asset="balance_groups", blocking=True)
def no_group_swallows_all(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Single linkage can chain: the largest group holds at most `checks.max_group_share` of the images not blocked."""
    config = settings.resolve()
    found = one_row(config, "balance_counts", package="pipeline.balance", groups="balance_groups")
    share, bound = found["largest_group_share"], config.checks.max_group_share
    removal = config.balance.removal
    aim, value = ("threshold", config.balance.threshold) if removal is None else ("target_removal", removal)
    otherwise = (
        f"The largest group holds {share:.1%} of the images, {found['largest_group']:,} of {found['samples']:,}; "
        f"checks.max_group_share allows {bound:.1%}. A smaller balance.{aim} than {value} "
        f"splits it, and balance.max_distance_to_center releases those that lie far from the image that is kept. "
        f"{picture(config, 'group_sizes', 'groups')}"
    )
    return verdict(context, found | {"at_most": bound}, passed=share <= bound, otherwise=otherwise)


@dg.asset_check(asset="balance_groups", blocking=True)
def removed_near_kept(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """No removed image is farther from the one kept for it than `balance.max_distance_to_center`, or, with rule
    `bounded`, than that or else the threshold."""
    from pipeline.storage.result import read_result

    config = settings.resolve()
    farthest = config.balance.farthest(read_result(config.path, "balance").stats["threshold"])
    if farthest is None:
        return dg.AssetCheckResult(passed=True, metadata={"at_most": "no bound"})
    found = one_row(config, "check_distances", values={"farthest": farthest}, groups="balance_groups")
    otherwise = (
        f"{found['too_far']:,} of {found['removed']:,} removed images are farther than {farthest:.4g} from the image "
        f"that is kept for them, up to {found['max_distance']:.4g}. If balance.rule or balance.max_distance_to_center "
        f"was changed, run balance_groups again. {made_anew('balance')}"
    )
    return verdict(context, found | {"at_most": farthest}, passed=found["too_far"] == 0, otherwise=otherwise)


@dg.asset_check(asset="balanced_pairs", blocking=False)
def no_evaluation_leaks(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """No kept image is a copy of a test image of `balance.decontaminate.datasets`; how many were left out."""
    config = settings.resolve()
    wanted = config.balance.decontaminate
    if not wanted.datasets:
        return dg.AssetCheckResult(passed=True, metadata={"datasets": 0})
    found = one_row(config, "check_leaks", leaks="evaluation_leaks", balanced="balanced_pairs")
    otherwise = (
        f"{found['kept']:,} of {found['found']:,} images that are within {wanted.threshold:g} of a test image were "
        "kept: the balance is older than evaluation_leaks. Run balanced_pairs again, and what comes after it. "
        f"{picture(config, 'evaluation_leaks')}"
    )
    return verdict(context, found | {"datasets": len(wanted.datasets)}, passed=found["kept"] == 0, otherwise=otherwise)


@dg.asset_check(asset="cluster_assignments", blocking=True)
def clusters_filled(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """At most `checks.max_empty_clusters` of the clusters are empty; every kept image has a label."""
    config = settings.resolve()
    found = one_row(
        config, "check_clusters", centroids="centroids", assignments="cluster_assignments", balanced="balanced_pairs"
    )
    bound = config.checks.max_empty_clusters
    otherwise = (
        f"{found['without_label']:,} kept images have no cluster. {made_anew('clusters')}"
        if found["without_label"]
        else f"{found['empty_share']:.1%} of the clusters are empty, {found['empty']:,} of {found['clusters']:,}; "
        f"checks.max_empty_clusters allows {bound:.1%}. Ask for fewer clusters.clusters. "
        f"{picture(config, 'cluster_sizes')}"
    )
    passed = found["empty_share"] <= bound and found["without_label"] == 0
    return verdict(context, found | {"at_most": bound}, passed=passed, otherwise=otherwise)


@dg.asset_check(asset="student", blocking=True)
def training_loss_fell(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """The mean loss of the last tenth of the rows is below that of the first."""
    config = settings.resolve()
    found = one_row(config, "check_training", metrics="training_metrics")
    otherwise = (
        f"The mean loss of the last tenth of the steps is {found['last_loss']:.4g}, that of the first "
        f"{found['first_loss']:.4g}; it should have fallen. Try a smaller student.optimizer.learning_rate than "
        f"{config.student.optimizer.learning_rate:g}, or more student.steps than {config.student.steps:,}. "
        f"{picture(config, 'loss_curves')}"
    )
    passed = bool(found["last_loss"] < found["first_loss"])
    return verdict(context, found, passed=passed, otherwise=otherwise)


@dg.asset_check(asset="student", blocking=True)
def export_reloads(context: dg.AssetCheckExecutionContext, settings: SettingsResource) -> dg.AssetCheckResult:
    """Plain open_clip loads the export and computes the embeddings that the trained module computed."""
    from pipeline.storage.result import read_result
    from training.export.check import export_cosine

    config = settings.resolve()

    def compare() -> dict[str, Any]:
        return {"min_cosine": export_cosine(read_result(config.path, "student").folder("student"))}

    cosine = compared(config, "export_reloads", ("student",), compare, by=export_cosine)["min_cosine"]
    bound = config.checks.min_export_cosine
    otherwise = (
        f"The least cosine of an embedding of the exported student with that of the trained one is {cosine:.6f}; "
        f"checks.min_export_cosine asks for {bound}. student.precision is {config.student.precision}, whose rounding "
        "the bound has to allow. If it is fp32, the folder student/ was changed: remove .marks/student under the root."
    )
    found = {"min_cosine": cosine, "at_least": bound}
    return verdict(context, found, passed=cosine >= bound, otherwise=otherwise)


CHECKS = [
    sample_ids_unique,
    enough_downloaded,
    embeddings_sound,
    embeddings_match_live,
    views_match_live,
    one_survivor_per_group,
    no_group_swallows_all,
    removed_near_kept,
    no_evaluation_leaks,
    clusters_filled,
    training_loss_fell,
    export_reloads,
]

"""The jobs of a data set. Without config those of the demo's location run the demo."""

from typing import Any

import dagster as dg

from assets.report import failure_report


def jobs_of(name: str | None = None) -> list[Any]:
    """``clip_cid``, ``curate``, ``distill`` and ``ablation``; of a data set with a ``name``, named after it."""

    def named(text: str) -> str:
        return f"{name}_{text}" if name else text

    def tables(*names: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*([name, table] if name else table for table in names))

    groups = (dg.AssetSelection.groups(named(group)) for group in ("curation", "distillation", "report"))
    curation, distillation, report = groups
    balanced = tables("balanced_pairs", "balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs")
    jobs = {
        "clip_cid": (curation | distillation, "Everything: from URL lists to an evaluated student."),
        "curate": (balanced.upstream(), "From URL lists to the balanced pairs."),
        "distill": (distillation, "From the training shards to an evaluated student."),
        "ablation": (
            curation | tables("ablation_results"),
            "The grid of data, losses and seeds, and the stages that it needs.",
        ),
    }
    ends = {failure_report(named("settings"))}
    return [
        dg.define_asset_job(named(job), selection=selection | report, description=text, hooks=ends)
        for job, (selection, text) in jobs.items()
    ]


JOBS = jobs_of()

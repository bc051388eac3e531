"""The jobs. Without config each runs the demo."""

import dagster as dg

from assets.report import report_failure

_DISTILLATION = dg.AssetSelection.groups("distillation")
_CURATION = dg.AssetSelection.groups("curation")
_REPORT = dg.AssetSelection.groups("report")
_ENDS = {report_failure}

clip_cid = dg.define_asset_job(
    "clip_cid",
    selection=_CURATION | _DISTILLATION | _REPORT,
    description="Everything: from URL lists to an evaluated student.",
    hooks=_ENDS,
)

curate = dg.define_asset_job(
    "curate",
    selection=dg.AssetSelection.assets(
        "balanced_pairs", "balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs"
    ).upstream()
    | _REPORT,
    description="From URL lists to the balanced pairs.",
    hooks=_ENDS,
)

distill = dg.define_asset_job(
    "distill",
    selection=_DISTILLATION | _REPORT,
    description="From the training shards to an evaluated student.",
    hooks=_ENDS,
)

ablation = dg.define_asset_job(
    "ablation",
    selection=_CURATION | dg.AssetSelection.assets("ablation_results") | _REPORT,
    description="The grid of data, losses and seeds, and the stages that it needs.",
    hooks=_ENDS,
)

JOBS = [clip_cid, curate, distill, ablation]

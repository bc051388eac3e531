"""The jobs. Without config each runs the demo."""

import dagster as dg

_DISTILLATION = dg.AssetSelection.groups("distillation")
_CURATION = dg.AssetSelection.groups("curation")

clip_cid = dg.define_asset_job(
    "clip_cid", selection=_CURATION | _DISTILLATION, description="Everything: from URL lists to an evaluated student."
)

curate = dg.define_asset_job(
    "curate",
    selection=dg.AssetSelection.assets(
        "balanced_pairs", "balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs"
    ).upstream(),
    description="From URL lists to the balanced pairs.",
)

distill = dg.define_asset_job(
    "distill", selection=_DISTILLATION, description="From the training shards to an evaluated student."
)

ablation = dg.define_asset_job(
    "ablation",
    selection=_CURATION | dg.AssetSelection.assets("ablation_results"),
    description="The grid of data, losses and seeds, and the stages that it needs.",
)

JOBS = [clip_cid, curate, distill, ablation]

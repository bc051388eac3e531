"""All definitions of the code location; nothing is decided here."""

import dagster as dg

from assets import ablation, balance, clusters, embeddings, evaluation, source, student
from assets.checks import CHECKS
from assets.jobs import JOBS
from assets.resources import SettingsResource
from pipeline.core.logs import keep_root_quiet
from pipeline.core.openmp import limit_spinning

# No import above imports torch or open_clip: assets do when they run.
limit_spinning()
keep_root_quiet()

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([source, embeddings, balance, clusters, student, evaluation, ablation]),
    asset_checks=CHECKS,
    jobs=JOBS,
    resources={"settings": SettingsResource()},
    # Steps follow one another anyway and do their own fan-out; a process each would cost 3 to 4 s a step.
    executor=dg.in_process_executor,
)

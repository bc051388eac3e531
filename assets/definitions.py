"""All definitions of the code location; nothing is decided here."""

import importlib
import pkgutil

import dagster as dg

import assets
from assets.checks import CHECKS
from assets.jobs import JOBS
from assets.resources import SettingsResource
from pipeline.core.logs import keep_root_quiet
from pipeline.core.openmp import limit_spinning

# No import above imports torch or open_clip: assets do when they run.
_MODULES = [
    importlib.import_module(f"assets.{module.name}")
    for module in pkgutil.iter_modules(assets.__path__)
    if not module.ispkg and module.name != "definitions"
]
limit_spinning()
keep_root_quiet()

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(_MODULES),
    asset_checks=CHECKS,
    jobs=JOBS,
    resources={"settings": SettingsResource()},
    # Steps follow one another anyway and do their own fan-out; a process each would cost 3 to 4 s a step.
    executor=dg.in_process_executor,
)

"""``report``: the end of every job, and what is left of one that failed."""

import contextlib
import os

import dagster as dg

from assets.ablation import ablation_results
from assets.evaluation import evaluation
from assets.resources import SettingsResource


@dg.asset(
    group_name="report",
    kinds={"html"},
    # Of these a job waits for the ones that it makes: that of `curate` ends with the balance.
    deps=[evaluation, ablation_results, "balanced_pairs", "centroids", "cluster_assignments"],
)
def report(context: dg.AssetExecutionContext, settings: SettingsResource) -> dg.MaterializeResult:
    """One HTML file with figures, pictures, settings, versions, times, and all that was refused."""
    from assets.page.report import Provenance, write_report
    from pipeline.core.files import fingerprint_of
    from pipeline.storage.roots import storage_of

    config = settings.resolve()
    remote = storage_of(config.path).remote
    if not remote and config.path.is_dir() and not os.access(config.path, os.W_OK):
        # An archive can be run again where nothing is to do.
        context.log.warning(f"report: not written, {config.path} may only be read")
        return dg.MaterializeResult(metadata={"written": False})
    selected = [key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys]
    written = write_report(config, run=Provenance.of_job(context.job_name, selected, config))
    context.log.info(f"report: {written.place}")
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.url(written.place) if remote else dg.MetadataValue.path(written.place),
            "size_mb": round(written.bytes / 1e6, 3),
            "seconds": written.seconds,
            "sections": ", ".join(written.sections),
            "stages not complete": ", ".join(written.open),
        },
        data_version=dg.DataVersion(fingerprint_of(written.digest)),
    )


def failure_report(place: str) -> dg.HookDefinition:
    """What says in the report too that a stage has failed: an earlier one would look as if all were well.

    ``place``: the resource that has the settings.
    """

    @dg.failure_hook(name=f"report_failure_{place}", required_resource_keys={place})
    def report_failure(context: dg.HookContext) -> None:
        from assets.page.report import write_report
        from pipeline.core.errors import PipelineError

        with contextlib.suppress(PipelineError, OSError):
            config = getattr(context.resources, place).resolve()
            # A run that was refused before anything was there leaves nothing.
            if config.path.is_dir():
                error = context.op_exception
                written = write_report(config, failure=f"The last run failed at {context.op.name}: {error}")
                context.log.info(f"report: {written.place}")

    return report_failure

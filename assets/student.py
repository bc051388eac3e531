"""``training_shards``, ``student`` and ``baseline``."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from assets.page.metadata import materialization
from assets.resources import SettingsResource
from assets.settings import Settings
from pipeline.demo.stage import resolve_datasets
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of

_STEPS_BETWEEN_OBSERVATIONS = 50

# The pool `gpu` has no limit unless the instance sets one, as deploy/dagster.yaml does, by run: by step, a run that was
# killed would keep its slot, and the next one would wait for it without end. The steps of a run follow one another
# anyway, and a stage's lock makes two runs on one root take turns.


@dg.asset(
    group_name="distillation",
    kinds={"webdataset"},
    deps=["images", "teacher_embeddings", "teacher_views", "balanced_pairs", "cluster_assignments"],
)
def training_shards(settings: SettingsResource) -> dg.MaterializeResult:
    """Kept pairs, globally shuffled, as tars with teacher embeddings and cluster label."""
    from pipeline.shards.stage import write_shards

    config = settings.resolve()
    result = write_shards(config.path, config.shards, config.query, views=config.embeddings.views)
    return materialization(result, config.path, "training_shards", extra={"dagster/row_count": result.rows})


@dg.asset(group_name="distillation", kinds={"deepspeed", "pytorch"}, deps=[training_shards, "centroids"], pool="gpu")
def student(context: dg.AssetExecutionContext, settings: SettingsResource) -> dg.MaterializeResult:
    """The small CLIP, distilled from the cached teacher by cluster-instance discrimination."""
    from training.stage import train_student

    config = _ready(settings)
    datasets = _watched(config)
    result = _observed(
        context,
        config,
        "student",
        lambda **live: train_student(config.path, config.student, datasets=datasets, **live),
    )
    return _trained(result, config, "student", "training")


@dg.asset(group_name="distillation", kinds={"deepspeed", "pytorch"}, deps=["images", "blocked_pairs"], pool="gpu")
def baseline(context: dg.AssetExecutionContext, settings: SettingsResource) -> dg.MaterializeResult:
    """The control: the same student and steps, contrastive loss alone, on all downloaded pairs that are not blocked."""
    from training.stage import train_baseline

    config = _ready(settings)
    if not config.baseline.enabled:
        return dg.MaterializeResult(metadata={"enabled": False})
    datasets = _watched(config)
    result = _observed(
        context,
        config,
        "baseline",
        lambda **live: train_baseline(config.path, config.student, datasets=datasets, **live),
    )
    return _trained(result, config, "baseline", "baseline")


def _ready(settings: SettingsResource) -> Settings:
    """The settings, refused if the evaluation could not follow: training is too long to find that out after it."""
    from training.evaluation.stage import require_datasets

    config = settings.resolve()
    require_datasets(resolve_datasets(config.evaluation.datasets, config.path, config.demo))
    return config


def _watched(config: Settings) -> list[Path]:
    """The evaluation sets that the student is measured on while it trains."""
    return resolve_datasets(config.watched_datasets, config.path, config.demo)


def _observed(
    context: dg.AssetExecutionContext, config: Settings, name: str, train: Callable[..., StageResult]
) -> StageResult:
    """Train, inside a Pipes session if there is anything to train: Dagster warns of a session that nobody has joined.

    Rows of metrics, now and then, and of evaluations, all, become observations of the asset while the ranks run.
    """
    from training.job.metrics import is_evaluation

    def on_metrics(row: dict[str, Any]) -> None:
        if row["step"] % _STEPS_BETWEEN_OBSERVATIONS == 0 or is_evaluation(row):
            numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
            context.log_event(dg.AssetObservation(asset_key=context.asset_key, metadata=numbers))

    # Of Dagster's own use of Dagster, once a session.
    warnings.filterwarnings("ignore", ".*PipesMessageReader.expected_writer_count", dg.PreviewWarning)

    @contextlib.contextmanager
    def session() -> Iterator[dict[str, str]]:
        # Rank 0 may be on another machine, which sees the root, but not the temporary files of this one.
        shared = config.path.resolve() if config.student.hostfile else None
        with (
            tempfile.TemporaryDirectory(prefix=".pipes-", dir=shared) as folder,
            dg.open_pipes_session(
                context=context,
                context_injector=dg.PipesFileContextInjector(str(Path(folder, "context"))),
                message_reader=dg.PipesFileMessageReader(str(Path(folder, "messages"))),
            ) as opened,
        ):
            yield dict(opened.get_bootstrap_env_vars())
        # Drained, not passed on: what the ranks reported by themselves is in the result.
        opened.get_results()

    return train(session=session, on_metrics=on_metrics)


def _trained(result: StageResult, config: Settings, name: str, tables: str) -> dg.MaterializeResult:
    from assets.page.pictures import training_pictures

    made = [f"{tables}_metrics", f"{tables}_evaluations"]
    extra = {
        table.removeprefix(f"{tables}_"): dg.MetadataValue.path(storage_of(config.path).uri(table))
        for table in made
        if result.paths(table)
    }
    return materialization(result, config.path, name, extra=extra | training_pictures(config, name))

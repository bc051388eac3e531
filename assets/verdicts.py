"""What checks have in common: the rows that they ask for, and how they say what they found."""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from assets.page.remembered import as_it_lies, remembered
from assets.settings import Settings
from pipeline.core.files import file_digest
from pipeline.storage.roots import storage_of

_STAGES = {
    "balance_groups": "balance",
    "balanced_pairs": "balance",
    "removed_pairs": "balance",
    "blocked_pairs": "balance",
    "filtered_pairs": "balance",
    "caption_embeddings": "teacher_embeddings",
    "centroids": "clusters",
    "cluster_assignments": "clusters",
    "training_metrics": "student",
}
"""Stages that do not have the name of the table that they make."""


def one_row(
    config: Settings, name: str, *, package: str = "assets", values: dict[str, Any] | None = None, **tables: str
) -> dict[str, Any]:
    """The first row of a named query; each parameter names a table, which is passed as its files, beside ``values``."""
    from pipeline.core import query
    from pipeline.storage.result import read_result

    files = {
        parameter: query.files(read_result(config.path, _STAGES.get(table, table)).parquet(table))
        for parameter, table in tables.items()
    }
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        row = query.one(connection, query.sql(package, name), files | (values or {}))
    assert row is not None
    return row


def verdict(
    context: dg.AssetCheckExecutionContext, found: dict[str, Any], *, passed: bool, otherwise: str
) -> dg.AssetCheckResult:
    """The result; ``otherwise`` is what the user reads if the check failed."""
    if passed:
        return dg.AssetCheckResult(passed=True, metadata=found)
    # Dagster's own line says no more than the check's name.
    context.log.error(otherwise)
    return dg.AssetCheckResult(passed=False, metadata=found, description=otherwise)


def compared(
    config: Settings, name: str, stages: tuple[str, ...], compare: Callable[[], dict[str, Any]], *, by: Any
) -> dict[str, Any]:
    """What a comparison with a live model has found, which takes longer than all the rest of an unchanged run: it is
    made again when a file of these stages, what it asks for, a library or the code of ``by`` was changed."""
    from pipeline.storage.result import read_result

    lies = [as_it_lies(read_result(config.path, stage)) for stage in stages]
    libraries = [version(library) for library in ("torch", "open_clip_torch")]
    asked = [config.checks.live_samples, config.embeddings.device]
    code = file_digest(Path(inspect.getfile(by)))
    return remembered(config.path, name, [lies, libraries, asked, code], compare)


def picture(config: Settings, *names: str) -> str:
    return "Look at " + " and ".join(storage_of(config.path).uri(f"pictures/{name}.png") for name in names) + "."


def made_anew(stage: str) -> str:
    """For what no setting explains: files were changed, or the code is wrong."""
    return f"No setting does that: remove .marks/{stage} under the root, so that the stage makes its tables anew."

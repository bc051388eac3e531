"""Evaluation as a stage: teacher, student and, where it was trained, baseline, on the same data sets."""

from pathlib import Path
from typing import Any

from pipeline.core import parquet
from pipeline.core.errors import ConfigError
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from training.config import EvaluationConfig


def evaluate_models(root: Path, config: EvaluationConfig, *, datasets: list[Path], baseline: bool) -> StageResult:
    """Stage ``evaluation``: one row per model, task, data set and metric. Raises :class:`ConfigError` for a data set
    that is not there before any model is loaded."""
    require_datasets(datasets)
    models = ["teacher", "student", *(["baseline"] if baseline else [])]
    results = {name: read_result(root, name) for name in models}
    digests = [result.digest for result in results.values()]
    content = {"tasks": config.tasks, "datasets": [dataset_identity(path) for path in datasets]}
    stage = Stage(root, "evaluation", version=1, config=content, inputs={"evaluation": [models, digests]})

    def write(output: Output) -> None:
        from training.evaluation.run import evaluate

        for result in results.values():
            result.check()
        table = evaluate(
            {name: result.folder(name) for name, result in results.items()},
            datasets,
            config.tasks,
            batch_size=config.batch_size,
            device=config.device,
        )
        parquet.write_table(table, output.path("evaluation/evaluation.parquet"))
        output.rows, output.stats = table.num_rows, {"models": dict(zip(models, digests))}

    return stage.each(write)


def require_datasets(datasets: list[Path]) -> None:
    """Raise :class:`ConfigError` for a data set that is not there; for the stages before, which take long."""
    missing = [str(path) for path in datasets if not path.is_dir()]
    if missing:
        raise ConfigError(f"evaluation.datasets: no folder {missing}")


def dataset_identity(folder: Path) -> Any:
    """A data set by name and the sizes of its files; large sets are not read for this."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [folder.name, [[str(path.relative_to(folder)), path.stat().st_size] for path in files]]

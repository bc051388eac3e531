"""Evaluation as a stage: teacher, student and, where it was trained, baseline, on the same data sets."""

from pathlib import Path
from typing import Any

from pipeline.core import parquet
from pipeline.core.errors import ConfigError
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from training.config import EvaluationConfig


def evaluate_models(
    root: Path, config: EvaluationConfig, *, datasets: list[Path], baseline: bool, decontaminated: bool = False
) -> StageResult:
    """Stage ``evaluation``: one row per model, task, data set and metric; where ``decontaminated`` says that leaks were
    looked for and some were found, as many rows of the test samples that have none.

    Raises :class:`ConfigError` for a data set that is not there before any model is loaded."""
    require_datasets(datasets)
    models = ["teacher", "student", *(["baseline"] if baseline else [])]
    results = {name: read_result(root, name) for name in models}
    digests = [result.digest for result in results.values()]
    leaks = read_result(root, "evaluation_leaks") if decontaminated else None
    # Without a leak the figures are those that there were before anybody looked for one.
    digests += [leaks.digest] if leaks and leaks.rows else []
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
            leaked=_leaked(leaks),
        )
        parquet.write_table(table, output.path("evaluation/evaluation.parquet"))
        output.rows, output.stats = table.num_rows, {"models": dict(zip(models, digests))}

    return stage.each(write)


def _leaked(leaks: StageResult | None) -> dict[str, set[str]]:
    """Names of the test samples that are near to training images, by data set."""
    found: dict[str, set[str]] = {}
    for path in leaks.parquet("evaluation_leaks") if leaks else []:
        table = parquet.read_table(path, columns=["dataset", "key"])
        for dataset, key in zip(*(column.to_pylist() for column in table.columns)):
            found.setdefault(dataset, set()).add(key)
    return found


def require_datasets(datasets: list[Path], setting: str = "evaluation.datasets") -> None:
    """Raise :class:`ConfigError` for a data set that is not there; for the stages before, which take long."""
    missing = [str(path) for path in datasets if not path.is_dir()]
    if missing:
        raise ConfigError(f"{setting}: no folder {missing}")


def dataset_identity(folder: Path) -> Any:
    """A data set by name and the sizes of its files; large sets are not read for this."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [folder.name, [[str(path.relative_to(folder)), path.stat().st_size] for path in files]]

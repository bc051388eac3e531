"""Evaluation as stages: teacher, student and baseline on the same data sets; the student on its training clusters."""

from pathlib import Path
from typing import Any

from pipeline.core import parquet
from pipeline.core.errors import ConfigError
from pipeline.core.manifest import read_manifest
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from training.config import EvaluationConfig
from training.evaluation.collection import evaluation_sets

CLUSTERS = "cluster_accuracy"
CLUSTERS_DIGEST = "clusters_digest"


def evaluate_models(
    root: Path, config: EvaluationConfig, *, datasets: list[Path], baseline: bool, decontaminated: bool = False
) -> StageResult:
    """Stage ``evaluation``: one row per model, task, data set and metric; where ``decontaminated`` says that leaks were
    looked for and some were found, as many rows of the test samples that have none.

    Raises :class:`ConfigError` for a data set that is not there before any model is loaded."""
    require_datasets(datasets)
    datasets, skipped = evaluation_sets(datasets)
    models = ["teacher", "student", *(["baseline"] if baseline else [])]
    results = {name: read_result(root, name) for name in models}
    digests = [result.digest for result in results.values()]
    leaks = read_result(root, "evaluation_leaks") if decontaminated else None
    # Without a leak the figures are those that there were before anybody looked for one.
    digests += [leaks.digest] if leaks and leaks.rows else []
    content = {"tasks": config.tasks, "datasets": [dataset_identity(path) for path in datasets]}
    # Version 2: with mean_per_class_recall.
    stage = Stage(root, "evaluation", version=2, config=content, inputs={"evaluation": [models, digests]})

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
        output.rows = table.num_rows
        output.stats = {"models": dict(zip(models, digests)), "data_sets": len(datasets)}
        output.stats |= {"skipped_data_sets": len(skipped), "skipped": skipped}

    return stage.each(write)


def measure_clusters(root: Path, config: EvaluationConfig) -> StageResult:
    """Stage ``cluster_accuracy``: on up to ``config.cluster_samples`` training images, student and teacher by cluster.

    The file's metadata has ``clusters_digest``, so that a file of other clusters is known where weights are made of it.
    """
    student, shards = read_result(root, "student"), read_result(root, "training_shards")
    content, made_of = {"samples": config.cluster_samples}, [student.digest, shards.digest]
    stage = Stage(root, CLUSTERS, version=1, config=content, inputs={CLUSTERS: made_of})

    def write(output: Output) -> None:
        from training.evaluation.cluster_accuracy import cluster_accuracy, first_shards, read_pool

        student.check()
        storage, folder = storage_of(root), shards.folder("training_shards/index").parent
        storage.fetch(["training_shards/manifest.json"])
        names = first_shards(folder, config.cluster_samples)
        with storage.borrowed(f"training_shards/{name}.tar" for name in names):
            pool = read_pool(folder, config.cluster_samples)
            model = student.folder("student")
            table = cluster_accuracy(model, pool, batch_size=config.batch_size, device=config.device)
        made_with = {CLUSTERS_DIGEST: read_manifest(folder).clusters_digest}
        parquet.write_table(table.replace_schema_metadata(made_with), output.path(f"{CLUSTERS}/{CLUSTERS}.parquet"))
        images = table["images"].to_numpy()
        output.rows, output.stats = table.num_rows, {"clusters": table.num_rows, "images": int(images.sum())}
        for name in ("student_accuracy", "teacher_accuracy"):
            output.stats[name] = float(table[name].to_numpy() @ images / images.sum())

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

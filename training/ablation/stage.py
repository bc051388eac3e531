"""The ablation as a stage: each cell of the grid is trained, measured and kept by itself, so a killed grid goes on."""

import logging
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core import parquet
from pipeline.core.query import QueryConfig
from pipeline.shards.config import ShardsConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import read_info, teacher_folder
from training.ablation.data import FOLDER, write_ablation_data
from training.ablation.grid import Cell, cells_of
from training.config import TEACHER, AblationConfig, EvaluationConfig, StudentConfig
from training.evaluation.stage import dataset_identity
from training.job.training_job import TrainingJob
from training.launch.launcher import run_training
from training.launch.remote_checkpoints import forget_elsewhere, kept_elsewhere
from training.losses.active import Needs
from training.stage import inherited, model_content, with_teacher_temperature

log = logging.getLogger(__name__)

TABLE = "ablation"


def run_ablation(
    root: Path,
    config: AblationConfig,
    student: StudentConfig,
    evaluation: EvaluationConfig,
    *,
    shards: ShardsConfig,
    query: QueryConfig,
    datasets: list[Path],
    on_cell: Callable[[str, int, int], None] | None = None,
) -> StageResult:
    """Stage ``ablation``: ``ablation/<data>-<losses>-<seed>.parquet``, a row per task, data set and metric of a cell.

    Every cell has the same student, batch and number of steps.

    Args:
        root: a root with embeddings, balance and clusters.
        config: the grid.
        student: the student and its training, as the grid's losses and seeds change it.
        evaluation: batch size and device of the measurements.
        shards: how the three training sets are cut.
        query: limits of DuckDB.
        datasets: folders of labeled images to measure on.
        on_cell: called with ``name, number, cells`` before each cell that has to be trained.

    Returns:
        The completed stage.

    Raises:
        Exception: what training and evaluation raise.
    """
    data = write_ablation_data(root, shards, query)
    cells = {cell.name: cell for cell in cells_of(config, student)}
    identity = [sorted(config.tasks), [dataset_identity(path) for path in datasets]]
    inputs = {
        name: [data.digest, cell.student.content(), model_content(cell.student), *inherited(_job(root, cell, data))]
        for name, cell in cells.items()
    }
    stage = Stage(root, TABLE, version=1, config=identity, inputs=inputs)

    def train(pending: list[str]) -> None:
        for number, name in enumerate(pending, start=1):
            log.info("ablation: %s, %d of %d", name, number, len(pending))
            if on_cell:
                on_cell(name, number, len(pending))
            job = _job(root, cells[name], data)
            with kept_elsewhere(root, job):
                trained = run_training(job)
            with stage.output(name) as output:
                table = _measure(cells[name], trained.export, config, evaluation, datasets)
                parquet.write_table(table, output.path(f"{TABLE}/{name}.parquet"))
                output.rows = table.num_rows
                output.stats = {"trained_s": trained.training_s}
            shutil.rmtree(job.output, ignore_errors=True)
            forget_elsewhere(root, job)

    return stage.run(train)


def summary(files: list[Path], *, task: str = "zero_shot", metric: str = "top1") -> list[dict[str, Any]]:
    """``data, losses, mean, spread, seeds`` of one metric; ``spread`` is the standard deviation over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for path in files:
        for row in parquet.read_table(path).to_pylist():
            if (row["task"], row["metric"]) == (task, metric):
                values.setdefault((row["data"], row["losses"]), []).append(row["value"])
    return [
        {
            "data": data,
            "losses": losses,
            "mean": statistics.fmean(found),
            "spread": statistics.stdev(found) if len(found) > 1 else 0.0,
            "seeds": len(found),
        }
        for (data, losses), found in sorted(values.items())
    ]


def _job(root: Path, cell: Cell, data: StageResult) -> TrainingJob:
    needs = Needs.of(cell.student.losses)
    return TrainingJob(
        name=f"ablation {cell.name}",
        student=with_teacher_temperature(root, cell.student),
        shards=data.folder(FOLDER).resolve(),
        index=(root / FOLDER / cell.data).resolve(),
        centroids=read_result(root, "clusters").parquet("centroids")[0].resolve() if needs.centroids else None,
        teacher=teacher_folder(root).resolve() if cell.student.initial == TEACHER else None,
        teacher_dim=read_info(root).embed_dim,
        inputs=f"{data.digest} {cell.data}",
        output=(root / "runs" / TABLE / cell.name).resolve(),
    )


def _measure(
    cell: Cell, export: Path, config: AblationConfig, evaluation: EvaluationConfig, datasets: list[Path]
) -> pa.Table:
    from training.evaluation.run import evaluate

    table = evaluate(
        {cell.name: export}, datasets, config.tasks, batch_size=evaluation.batch_size, device=evaluation.device
    )
    facts = {"data": cell.data, "losses": cell.losses, "seed": cell.seed, "steps": cell.student.steps}
    for place, (name, value) in enumerate(facts.items()):
        table = table.add_column(place, name, pa.array([value] * table.num_rows))
    return table.drop_columns(["model"])

"""The ablation as a stage: each cell of the grid is trained, measured and kept by itself, so a killed grid goes on."""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.query import QueryConfig
from pipeline.shards.config import ShardsConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from pipeline.teacher.stage import read_info, teacher_folder
from training.ablation.data import FOLDER, write_ablation_data
from training.ablation.earlier import (
    CELLS,
    GRID,
    TABLE,
    adopt_earlier,
    cells_stage,
    fingerprint,
    measured_now,
    shard_name,
)
from training.ablation.grid import Cell, cells_of
from training.ablation.measure import measure_cell
from training.config import AblationConfig, EvaluationConfig, StudentConfig
from training.config.student import TEACHER
from training.evaluation.stage import dataset_identity
from training.job.training_job import TrainingJob
from training.launch.launcher import run_training
from training.launch.remote_checkpoints import forget_elsewhere, kept_elsewhere
from training.losses.active import Needs
from training.stage import inherited, model_content, with_teacher_temperature

log = logging.getLogger(__name__)


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
    """Stages ``ablation_cells``, a file for each training run, and ``ablation``, those of this grid as one table.

    Every cell has the same student and batch, and the same number of steps or of epochs. A cell that is there is not
    trained again, whichever grid it was trained for: those of other grids stay in ``ablation_cells``.

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
        The completed stage ``ablation``; its shards are the cells of the grid.

    Raises:
        Exception: what training and evaluation raise.
    """
    data = write_ablation_data(root, shards, query)
    identity = [sorted(config.tasks), [dataset_identity(path) for path in datasets]]
    made_from: dict[str, str] = {}
    cells: dict[str, Cell] = {}
    for cell in cells_of(config, student, data.tables):
        what = [data.digest, cell.student.content(), model_content(cell.student), *inherited(_job(root, cell, data))]
        found = fingerprint(identity, f"{cell.data}-{cell.losses}-{cell.seed}", what)
        made_from[shard_name(cell.name, found)] = found
        cells[shard_name(cell.name, found)] = cell
    adopt_earlier(root)
    stage = cells_stage(root, made_from)

    def train(pending: list[str]) -> None:
        for number, name in enumerate(pending, start=1):
            cell = cells[name]
            log.info("ablation: %s, %d of %d", cell.name, number, len(pending))
            if on_cell:
                on_cell(cell.name, number, len(pending))
            job = _job(root, cell, data)
            with kept_elsewhere(root, job):
                trained = run_training(job)
            with stage.output(name) as output:
                table = measure_cell(cell, job, trained, config=config, evaluation=evaluation, datasets=datasets)
                parquet.write_table(table, output.path(f"{CELLS}/{name}.parquet"))
                output.rows = table.num_rows
                output.stats = {"trained_s": trained.training_s, **measured_now()}
            shutil.rmtree(job.output, ignore_errors=True)
            forget_elsewhere(root, job)

    return _as_grid(root, stage.run(train), cells)


def _as_grid(root: Path, measured: StageResult, cells: dict[str, Cell]) -> StageResult:
    """The table of this grid's cells: their rows, on each axis on which they are wanted."""
    axes = {name: list(cell.axes) for name, cell in cells.items()}
    stage = Stage(root, TABLE, version=1, config=None, inputs={GRID: [measured.digest, axes]})

    def write(output: Output) -> None:
        rows = [
            {"axis": axis, **row}
            for path in measured.parquet(CELLS)
            for axis in axes[path.stem]
            for row in parquet.read_table(path).to_pylist()
        ]
        table = pa.Table.from_pylist(rows, schema=schema.ABLATION)
        parquet.write_table(table, output.path(f"{TABLE}/{TABLE}.parquet"))
        trained = [mark.stats.get("trained_s", 0.0) for mark in measured.shard_marks().values()]
        output.rows, output.stats = table.num_rows, {"cells": len(cells), "trained_s": sum(trained)}

    return dataclasses.replace(stage.each(write), shards=measured.shards, computed=measured.computed)


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

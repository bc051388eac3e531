"""One cell of the grid, measured: its student at the end, and at steps before that, of which there are checkpoints."""

import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.clip.model import WEIGHTS_FILE
from pipeline.core import parquet, schema
from training.ablation.grid import Cell
from training.config import AblationConfig, EvaluationConfig
from training.job.training_job import TrainingJob
from training.launch.launcher import TrainingResult

log = logging.getLogger(__name__)

_PREFIX = "model."


def measure_cell(
    cell: Cell,
    job: TrainingJob,
    trained: TrainingResult,
    *,
    config: AblationConfig,
    evaluation: EvaluationConfig,
    datasets: list[Path],
) -> pa.Table:
    """``schema.ABLATION_CELLS``: a row for each step that is measured, task, data set and metric."""
    from training.evaluation.run import evaluate

    exports = {str(step): export for step, export in _exports(cell, job, trained, config.measure_every).items()}
    table = evaluate(exports, datasets, config.tasks, batch_size=evaluation.batch_size, device=evaluation.device)
    seconds = seconds_at(parquet.read_table(trained.metrics).to_pylist(), cell.student.batch_size)
    facts = {"data": cell.data, "losses": cell.losses, "seed": cell.seed, "steps": cell.student.steps}
    rows = []
    for row in table.to_pylist():
        step = int(row.pop("model"))
        place = {"step": step, "epochs": step / cell.steps_per_epoch, "elapsed_s": seconds.get(step)}
        rows.append({**facts, **place, **row})
    return pa.Table.from_pylist(rows, schema=schema.ABLATION_CELLS)


def seconds_at(metrics: list[dict[str, Any]], batch_size: int) -> dict[int, float]:
    """Seconds of training up to each step of the metrics: laps of runs that were ended count, start-up does not.

    ``metrics``: rows of ``training_metrics``, whose ``samples_per_second`` is that of the steps since the row before.
    """
    steps = [row["step"] for row in metrics]
    laps = [
        (step - before) * batch_size / row["samples_per_second"]
        for before, step, row in zip([0, *steps], steps, metrics, strict=False)
    ]
    return dict(zip(steps, itertools.accumulate(laps), strict=True))


def _exports(cell: Cell, job: TrainingJob, trained: TrainingResult, every: int | None) -> dict[int, Path]:
    """The students to measure, by step."""
    steps = range(every, cell.student.steps, every) if every else ()
    exports = {}
    for step in steps:
        checkpoint = job.checkpoints / f"step-{step}"
        if not checkpoint.is_dir():
            # A run that went on elsewhere has brought its newest one alone.
            log.warning("%s: not measured after step %d, of which there is no checkpoint here", job.name, step)
            continue
        exports[step] = export_at(checkpoint, trained.export, job.output / "measured" / checkpoint.name)
    return {**exports, cell.student.steps: trained.export}


def export_at(checkpoint: Path, export: Path, folder: Path) -> Path:
    """The open_clip folder that a run would have exported at a checkpoint's step, beside the one that it did export.

    Averages of weights stand for the weights where a run keeps them, as in its own export.
    """
    import safetensors.torch

    from training.engine import engine_state

    tensors = engine_state.read(checkpoint)
    shutil.copytree(export, folder, dirs_exist_ok=True)
    weights = {}
    for name, like in safetensors.torch.load_file(str(export / WEIGHTS_FILE)).items():
        found = tensors.get(f"average/{_PREFIX}{name}", tensors.get(f"weight/{_PREFIX}{name}"))
        assert found is not None, f"{checkpoint} has no {name}"
        weights[name] = found.to(like.dtype).reshape(like.shape).contiguous()
    safetensors.torch.save_file(weights, str(folder / WEIGHTS_FILE))
    return folder

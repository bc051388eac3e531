"""One rank of a training run: ``python -m training.train --job job.json``, started by DeepSpeed's launcher."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, EmbeddingError
from pipeline.files import write_text_atomically
from pipeline.processes import die_with_parent
from pipeline.progress import Progress
from training.job import TrainingJob
from training.terms import Needs, learnt_temperatures

if TYPE_CHECKING:
    from torch import Tensor

    from training.centroids import CentroidTable
    from training.checkpoint import Checkpoints
    from training.data import TrainingSet
    from training.engine import Engine
    from training.loop import LoopSettings
    from training.order import SampleOrder
    from training.student import BuiltStudent
    from training.task import Batch, DistillationTask

STOPPED = 143
"""Exit status of a rank that wrote a checkpoint because of SIGTERM: 128 + 15, as shells count."""

_SECONDS_BETWEEN_PARENT_CHECKS = 2.0

log = logging.getLogger("training")


def main() -> int:
    """Train as the job file says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="JSON file of a TrainingJob")
    parser.add_argument("--local_rank", type=int, default=0, help="given by DeepSpeed's launcher")
    parser.add_argument("--launched", action="store_true", help="the parent must be the leader of this session")
    options = parser.parse_args()
    # The launcher leads its session; if it has ended already, the parent is another process by now.
    _end_with_parent(os.getsid(0) if options.launched else os.getppid())
    job = TrainingJob.model_validate_json(options.job.read_text())
    log.setLevel(logging.INFO)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)

    from training.loop import StopRequested

    # Whoever starts ranks with a plain command has not made it.
    job.output.mkdir(parents=True, exist_ok=True)
    try:
        with _logger() as logger:
            run(job, logger)
    except StopRequested as stop:
        log.info(str(stop))
        return STOPPED
    except Exception as error:
        log.exception("rank %s failed", os.environ.get("RANK", "0"))
        _report(job, error)
        # Not a return: at exit, threads of the process group could wait for ranks that are still at work.
        sys.stdout.flush()
        os._exit(1)
    return 0


def run(job: TrainingJob, logger: logging.Logger) -> None:
    """Check the inputs, build everything, train, and let rank 0 write export, metrics table and result."""
    from training.loop import Loop, StopFlag

    started, stop = time.monotonic(), StopFlag()
    stop.install()
    inputs = _open_inputs(job)

    # DeepSpeed is slow to import, so all that can be wrong with the input is found out before.
    from training.engine import init_distributed
    from training.loggers import open_loggers
    from training.probe import write_probe

    init_distributed()
    engine, task, checkpoints = _connect(job, inputs)
    start = checkpoints.newest()
    if start:
        checkpoints.load(engine, start)
    loop = Loop(
        engine=engine,
        task=task,
        checkpoints=checkpoints,
        metrics_file=job.metrics_file,
        settings=_loop_settings(job),
        loggers=open_loggers(job, resume_step=start) if engine.rank == 0 else (),
    )
    startup_s, training_started = time.monotonic() - started, time.monotonic()
    with _progress(job, logger, engine) as progress:
        if progress:
            logger.info(_describe(job, inputs, engine, start))
        loop.run(_batches(job, inputs, engine, start), start=start, stop=stop, progress=progress)
    write_probe(job.export_folder, engine, inputs.samples)
    state = engine.state()
    if engine.rank == 0:
        seconds = {"startup_s": startup_s, "training_s": time.monotonic() - training_started}
        _write_results(job, inputs, state, {"steps": job.student.steps, "resumed_from": start, **seconds})
    engine.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    student: "BuiltStudent"
    samples: "TrainingSet"
    order: "SampleOrder"
    centroids: "CentroidTable | None"


def _open_inputs(job: TrainingJob) -> _Inputs:
    """Everything that needs no other rank, checked as far as can be without training."""
    from training.centroids import CentroidTable
    from training.data import TrainingSet, preflight
    from training.order import SampleOrder
    from training.student import build_student

    job.check()
    config, needs = job.student, Needs.of(job.student.losses)
    student = build_student(
        config.model,
        teacher_dim=job.teacher_dim if needs.teacher_space else None,
        temperature=config.losses.contrastive.temperature,
        seed=config.seed,
        precision=config.precision,
        gradient_checkpointing=config.gradient_checkpointing,
        initial=config.initial,
        teacher=job.teacher,
        temperatures=learnt_temperatures(config.losses),
    )
    centroids = CentroidTable.open(job.centroids) if job.centroids and needs.centroids else None
    if centroids and centroids.width != job.teacher_dim:
        raise EmbeddingError(f"centroids are {centroids.width} wide, the teacher's embeddings {job.teacher_dim}")
    samples = TrainingSet(
        job.shards,
        job.index_folder,
        needs=needs,
        preprocess=student.preprocess,
        tokenizer=student.tokenizer,
        teacher_dim=job.teacher_dim,
        clusters=centroids.total if centroids else None,
        views=job.views,
    )
    preflight(samples)
    order = SampleOrder(samples.shard_rows, batch_size=config.batch_size, seed=config.seed)
    return _Inputs(student=student, samples=samples, order=order, centroids=centroids)


def _connect(job: TrainingJob, inputs: _Inputs) -> "tuple[Engine, DistillationTask, Checkpoints]":
    from training.centroids import load_centroids
    from training.checkpoint import Checkpoints
    from training.engine import Engine
    from training.task import DistillationTask

    config = job.student
    engine = Engine(inputs.student.module, config)
    if engine.world != config.ranks:
        raise ConfigError(f"the launcher started {engine.world} ranks, the job says {config.ranks}")
    centroids = load_centroids(inputs.centroids, config.losses.cluster) if inputs.centroids else None
    task = DistillationTask(config.losses, centroids=centroids, device=engine.device)
    checkpoints = Checkpoints(job.checkpoints, fingerprint=job.fingerprint(), keep=config.keep_checkpoints)
    if task.centroid_optimizer:
        engine.keep(task.centroid_optimizer)
    return engine, task, checkpoints


def _loop_settings(job: TrainingJob) -> "LoopSettings":
    from training.loop import LoopSettings
    from training.schedule import schedule_of

    config = job.student
    return LoopSettings(
        steps=config.steps,
        batch_size=config.batch_size,
        schedule=schedule_of(config.optimizer, steps=config.steps),
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )


def _batches(job: TrainingJob, inputs: _Inputs, engine: "Engine", start: int) -> "Iterator[Batch]":
    from training.data import batches

    return batches(
        inputs.samples,
        inputs.order,
        start=start,
        stop=job.student.steps,
        rank=engine.rank,
        ranks=engine.world,
        workers=job.student.loader_workers,
    )


def _write_results(job: TrainingJob, inputs: _Inputs, state: "dict[str, Tensor]", result: dict[str, float]) -> None:
    """Export, metrics table, and the result file, last."""
    from training.card import CARD_FILE, model_card
    from training.metrics import read_rows, write_table
    from training.student import export_student

    rows = read_rows(job.metrics_file)
    export_student(job.export_folder, inputs.student, state)
    card = model_card(job, samples=len(inputs.samples), rows=rows, resumed_from=int(result["resumed_from"]))
    write_text_atomically(job.export_folder / CARD_FILE, card)
    write_table(rows, job.metrics_table)
    write_text_atomically(job.result_file, json.dumps(result))


def _describe(job: TrainingJob, inputs: _Inputs, engine: "Engine", start: int) -> str:
    return (
        f"{job.name}: {len(inputs.samples):,} samples, {inputs.order.steps_per_epoch:,} steps per epoch, "
        f"{engine.world} x {engine.device.type}, {f'resumed after step {start}' if start else 'a new run'}"
    )


@contextlib.contextmanager
def _logger() -> Iterator[logging.Logger]:
    """Rank 0's way to Dagster where Dagster started this run; plain logging otherwise."""
    if os.environ.get("RANK", "0") == "0" and "DAGSTER_PIPES_CONTEXT" in os.environ:
        from dagster_pipes import open_dagster_pipes

        with open_dagster_pipes() as context:
            # The log file of the run has the lines too.
            for handler in logging.getLogger().handlers:
                context.log.addHandler(handler)
            yield context.log
    else:
        yield log


@contextlib.contextmanager
def _progress(job: TrainingJob, logger: logging.Logger, engine: "Engine") -> Iterator[Progress | None]:
    if engine.rank == 0:
        with Progress(logger, job.name, total=job.student.steps, unit="steps") as progress:
            yield progress
    else:
        yield None


def _report(job: TrainingJob, error: Exception) -> None:
    """Leave the error for the process that started the run; the first rank that fails knows the cause."""
    with contextlib.suppress(FileExistsError), job.failure_file.open("x") as file:
        json.dump({"type": type(error).__name__, "message": str(error)}, file)


def _end_with_parent(parent: int) -> None:
    """Make sure that this rank ends when the launcher does: the kernel sees to it on Linux, a thread elsewhere."""
    die_with_parent(parent)

    def watch() -> None:
        while os.getppid() == parent and parent != 1:
            time.sleep(_SECONDS_BETWEEN_PARENT_CHECKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    sys.exit(main())

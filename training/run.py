"""A training run as one of its ranks sees it: inputs are checked, everything is built, trained and written."""

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.core.files import write_text_atomically
from pipeline.core.progress import Progress
from training.job.contradictions import contradictions
from training.job.training_job import TrainingJob
from training.launch.lifeline import Tie, release, tie_between_ranks
from training.loop.stop import StopFlag, StopRequested
from training.losses.active import Needs, learnable_temperatures
from training.ranks import ranks_here

if TYPE_CHECKING:
    from torch import Tensor

    from training.data.batch import Batch
    from training.data.dataset import TrainingSet
    from training.data.order import SampleOrder
    from training.engine.deepspeed_engine import Engine
    from training.evaluation.small import SmallSet
    from training.job.checkpoints import Checkpoints
    from training.loop.best import Best
    from training.loop.evaluation import StudentEvaluation
    from training.loop.task import DistillationTask
    from training.loop.training_loop import LoopSettings
    from training.losses.centroid_table import CentroidTable
    from training.model.student import BuiltStudent


def run(job: TrainingJob, logger: logging.Logger, stop: StopFlag, tie: Tie | None) -> None:
    """Check the inputs, build everything, train, and let rank 0 write export, metrics table and result.

    ``tie``: to whoever started ranks on several machines; none ties them to rank 0, if there are several machines.
    """
    from training.loop.training_loop import Loop

    started = time.monotonic()
    if job.student.ranks is None:
        job = job.on(ranks_here())
    inputs = _open_inputs(job)

    # DeepSpeed is slow to import, so all that can be wrong with the input is found out before.
    from training.engine.deepspeed_engine import init_distributed
    from training.export.check import write_probe
    from training.loop.loggers import open_loggers

    init_distributed()
    tie = tie or tie_between_ranks(stop.raise_flag)
    engine, task, checkpoints, best = _connect(job, inputs)
    # One rank looks for all: listings of a network file system may differ.
    start = int(engine.gather(checkpoints.newest_undamaged() if engine.rank == 0 else 0)[0])
    if start:
        checkpoints.load(engine, start)
    evaluation = _evaluation(job, inputs, engine, task)
    loop = Loop(
        engine=engine,
        task=task,
        checkpoints=checkpoints,
        metrics_file=job.metrics_file,
        settings=_loop_settings(job),
        loggers=open_loggers(job, resume_step=start) if engine.rank == 0 else (),
        evaluation=evaluation,
        best=best,
    )
    startup_s, training_started = time.monotonic() - started, time.monotonic()
    with _progress(job, logger, engine) as progress:
        if progress:
            logger.info(_describe(job, inputs, engine, start))
        try:
            loop.run(_batches(job, inputs, engine, start), start=start, stop=stop, progress=progress)
        except StopRequested:
            release(tie)
            raise
    if best:
        engine.replace_weights(best.weights)
    write_probe(job.export_folder, engine, inputs.samples)
    state = engine.state()
    # From here on no rank waits for another.
    release(tie)
    if engine.rank == 0:
        seconds = {"startup_s": startup_s, "training_s": time.monotonic() - training_started}
        steps = {"steps": job.student.steps, "exported_step": best.step if best else job.student.steps}
        _write_results(job, inputs, state, {**steps, "resumed_from": start, **seconds})
    engine.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    student: "BuiltStudent"
    samples: "TrainingSet"
    held_out: "TrainingSet | None"
    sets: "list[SmallSet]"
    order: "SampleOrder"
    centroids: "CentroidTable | None"


def _open_inputs(job: TrainingJob) -> _Inputs:
    """Everything that needs no other rank, checked as far as can be without training."""
    from training.data.dataset import TrainingSet, preflight
    from training.data.order import SampleOrder
    from training.data.weights import ShardWeights
    from training.losses.centroid_table import CentroidTable
    from training.model.student import build_student

    job.check()
    job.check_shards()
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
        temperatures=learnable_temperatures(config.losses),
    )
    centroids = CentroidTable.open(job.centroids) if job.centroids and needs.centroids else None
    if centroids and centroids.width != job.teacher_dim:
        raise EmbeddingError(f"centroids are {centroids.width} wide, the teacher's embeddings {job.teacher_dim}")
    for line in contradictions(config, ranks=config.ranks, clusters=centroids.total if centroids else None):
        raise ConfigError(line)
    open_set = functools.partial(
        TrainingSet,
        job.shards,
        job.index_folder,
        needs=needs,
        preprocessing=Preprocessing.of(student.preprocess),
        tokenizer=student.tokenizer,
        teacher_dim=job.teacher_dim,
        clusters=centroids.total if centroids else None,
        views=job.views,
        seed=config.seed,
        held_out_samples=config.evaluate.held_out_samples,
    )
    samples = open_set()
    preflight(samples)
    weights = ShardWeights(job.weights, samples) if job.weights else None
    order = SampleOrder(samples.shard_rows, batch_size=config.batch_size, seed=config.seed, weights=weights)
    return _Inputs(
        student=student,
        samples=samples,
        held_out=open_set(held_out=True) if config.evaluate_every and config.evaluate.held_out_samples else None,
        sets=_open_small_sets(job),
        order=order,
        centroids=centroids,
    )


def _open_small_sets(job: TrainingJob) -> "list[SmallSet]":
    from training.evaluation.small import open_small_sets
    from training.job.contradictions import unknown_measure

    evaluate = job.student.evaluate
    sets = open_small_sets(job.student.measured_on, evaluate.tasks, samples=evaluate.samples)
    if job.student.evaluate_every and not sets and not evaluate.held_out_samples:
        raise ConfigError("student.evaluate_every: no evaluation set is given, and no sample is held out")
    for line in unknown_measure(job.student, {one.data.name: one.tasks for one in sets}):
        raise ConfigError(line)
    return sets


def _connect(job: TrainingJob, inputs: _Inputs) -> "tuple[Engine, DistillationTask, Checkpoints, Best | None]":
    from training.engine.deepspeed_engine import Engine
    from training.job.checkpoints import Checkpoints
    from training.loop.best import Best
    from training.loop.task import DistillationTask
    from training.losses.centroid_table import load_centroids

    config = job.student
    engine = Engine(inputs.student.module, config)
    if engine.world != config.ranks:
        raise ConfigError(f"the launcher started {engine.world} ranks, the job says {config.ranks}")
    centroids = load_centroids(inputs.centroids, config.losses.cluster) if inputs.centroids else None
    normalize = inputs.samples.preprocessing.normalize
    task = DistillationTask(config.losses, centroids=centroids, normalize=normalize, device=engine.device)
    checkpoints = Checkpoints(job.checkpoints, fingerprint=job.fingerprint(), keep=config.keep_checkpoints)
    if task.centroid_optimizer:
        engine.keep(task.centroid_optimizer)
    best = Best(engine, config.keep_best) if config.keep_best is not None else None
    if best:
        engine.keep(best)
    return engine, task, checkpoints, best


def _evaluation(
    job: TrainingJob, inputs: _Inputs, engine: "Engine", task: "DistillationTask"
) -> "StudentEvaluation | None":
    from training.data.loader import held_out_batches
    from training.loop.evaluation import StudentEvaluation

    config, held_out = job.student, None
    if not config.evaluate_every:
        return None
    if inputs.held_out:
        held_out = functools.partial(
            held_out_batches,
            inputs.held_out,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=engine.rank,
            ranks=engine.world,
        )
    return StudentEvaluation(
        engine=engine,
        task=task,
        student=inputs.student,
        sets=inputs.sets,
        held_out=held_out,
        rows=config.batch_size // engine.world // config.micro_batches,
    )


def _loop_settings(job: TrainingJob) -> "LoopSettings":
    from training.engine.schedule import schedule_of
    from training.loop.training_loop import LoopSettings

    config = job.student
    return LoopSettings(
        steps=config.steps,
        batch_size=config.batch_size,
        schedule=schedule_of(config.optimizer, steps=config.steps),
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
    )


def _batches(job: TrainingJob, inputs: _Inputs, engine: "Engine", start: int) -> "Iterator[Batch]":
    from training.data.loader import batches
    from training.data.workers import loader_workers

    config = job.student
    rows = config.batch_size // engine.world
    return batches(
        inputs.samples,
        inputs.order,
        start=start,
        stop=config.steps,
        rank=engine.rank,
        ranks=engine.world,
        workers=loader_workers(config.loader_workers, inputs.samples, rows=rows, device=engine.device),
    )


def _write_results(job: TrainingJob, inputs: _Inputs, state: "dict[str, Tensor]", result: dict[str, float]) -> None:
    """Export, metrics table, and the result file, last."""
    from training.export.model_card import CARD_FILE, model_card
    from training.job.metrics import is_evaluation, read_rows, write_evaluations, write_table
    from training.model.student import export_student

    rows = read_rows(job.metrics_file)
    export_student(job.export_folder, inputs.student, state)
    evaluated = [row for row in rows if is_evaluation(row)]
    card = model_card(
        job,
        samples=len(inputs.samples),
        rows=[row for row in rows if not is_evaluation(row)],
        evaluated=next((row for row in evaluated if row["step"] == result["exported_step"]), None),
        resumed_from=int(result["resumed_from"]),
    )
    write_text_atomically(job.export_folder / CARD_FILE, card)
    write_table([row for row in rows if not is_evaluation(row)], job.metrics_table)
    job.evaluations_table.unlink(missing_ok=True)
    if evaluated:
        write_evaluations(evaluated, job.evaluations_table)
    write_text_atomically(job.result_file, json.dumps(result))


def _describe(job: TrainingJob, inputs: _Inputs, engine: "Engine", start: int) -> str:
    return (
        f"{job.name}: {len(inputs.samples):,} samples, {inputs.order.steps_per_epoch:,} steps per epoch, "
        f"{engine.world} x {engine.device.type}, {f'resumed after step {start}' if start else 'a new run'}"
    )


@contextlib.contextmanager
def _progress(job: TrainingJob, logger: logging.Logger, engine: "Engine") -> Iterator[Progress | None]:
    if engine.rank == 0:
        with Progress(logger, job.name, total=job.student.steps, unit="steps") as progress:
            yield progress
    else:
        yield None

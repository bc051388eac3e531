"""The student and its baseline as stages: a training run whose export and metrics are kept under the root."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.balance.unused import unused_digest, unused_pairs, write_captioned_index
from pipeline.core.files import fingerprint_of
from pipeline.core.manifest import read_manifest
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import logit_scale, read_info, teacher_folder
from training.config import ClusterConfig, InstanceConfig, LossesConfig, StudentConfig
from training.config.student import TEACHER
from training.data.weighing import weighing_of
from training.evaluation.collection import evaluation_sets
from training.job.training_job import TrainingJob
from training.launch.launcher import run_training
from training.launch.remote_checkpoints import forget_elsewhere, kept_elsewhere
from training.losses.active import Needs

MetricsCallback = Callable[[dict[str, Any]], None]
Session = Callable[[], AbstractContextManager[dict[str, str] | None]]
"""What a run is put into, if there is one: entered just before ranks start, it gives variables for them."""


def train_student(
    root: Path,
    config: StudentConfig,
    *,
    datasets: Sequence[Path] | None = None,
    session: Session = nullcontext,
    on_metrics: MetricsCallback | None = None,
) -> StageResult:
    """Stage ``student``: trained on the training shards; ``student/`` is an open_clip folder.

    ``datasets``: folders of the sets of ``config.evaluate``, whose names are taken for them where there are none.
    Raises :class:`ShardError` if the shards were made with another teacher than the one under this root.
    """
    shards = read_result(root, "training_shards")
    clusters = read_result(root, "clusters")
    storage_of(root).fetch(["training_shards/manifest.json"])
    manifest, teacher = read_manifest(root / "training_shards"), read_info(root)
    output = (root / "runs" / "student").resolve()
    weighing = weighing_of(root, config, manifest)
    job = TrainingJob(
        name="student",
        student=with_teacher_temperature(root, _measured_on(config, datasets)),
        shards=(root / "training_shards").resolve(),
        centroids=clusters.parquet("centroids")[0].resolve(),
        teacher=_teacher(root, config),
        teacher_dim=manifest.embed_dim,
        made_with={
            "weights_hash": teacher.weights_hash,
            "preprocessing_hash": teacher.preprocessing_hash,
            "clusters_digest": clusters.digest,
        },
        views=manifest.views,
        inputs=shards.digest,
        weights=output / "weights" if weighing else None,
        weights_digest=weighing.digest if weighing else "",
        output=output,
    )
    job.check_shards()

    def prepare() -> None:
        index = shards.folder("training_shards/index")
        if weighing and job.weights:
            weighing.write(sorted(index.glob("*.parquet")), job.weights, scratch=root / ".tmp" / "weights")

    live: dict[str, Any] = {"session": session, "on_metrics": on_metrics}
    return _train(root, job, config, samples=shards, tables="training", prepare=prepare, **live)


def train_baseline(
    root: Path,
    config: StudentConfig,
    *,
    datasets: Sequence[Path] | None = None,
    session: Session = nullcontext,
    on_metrics: MetricsCallback | None = None,
) -> StageResult:
    """Stage ``baseline``: the same student, steps and batch, contrastive loss alone, on every downloaded image with all
    its captions, but for what is blocked or filtered. ``datasets``: as of :func:`train_student`."""
    images, source, balance = (read_result(root, name) for name in ("images", "source_pairs", "balance"))
    output = (root / "runs" / "baseline").resolve()
    config = contrastive_alone(config.unweighted())
    unused = unused_pairs(balance)
    job = TrainingJob(
        name="baseline",
        student=_measured_on(config, datasets),
        shards=(root / "images").resolve(),
        # The tars hold blocked images too, but what is not in the index is never read.
        index=output / "index",
        # Not the digest of the balance: another threshold leaves the baseline as it is.
        inputs=fingerprint_of(images.digest, source.digest, unused_digest(balance, unused)),
        teacher=_teacher(root, config),
        output=output,
    )

    def prepare() -> None:
        assert job.index is not None
        write_captioned_index(images.parquet("index"), source.parquet("source_pairs"), unused, job.index)

    live: dict[str, Any] = {"session": session, "on_metrics": on_metrics}
    return _train(root, job, config, samples=images, tables="baseline", prepare=prepare, **live)


def _train(
    root: Path,
    job: TrainingJob,
    config: StudentConfig,
    *,
    samples: StageResult,
    tables: str,
    session: Session,
    on_metrics: MetricsCallback | None,
    prepare: Callable[[], None],
) -> StageResult:
    stage = Stage(
        root,
        job.name,
        version=1,
        config=config.content(),
        inputs={job.name: [job.inputs, model_content(config), *inherited(job), *job.weighted_by(), *job.chosen_on()]},
    )

    def train(pending: list[str]) -> None:
        for shard in pending:
            prepare()
            # Not inside the temporary folder of the output: checkpoints must outlive a killed run.
            with samples.borrowed(".tar"), kept_elsewhere(root, job), session() as env:
                trained = run_training(job, env=env, on_metrics=on_metrics)
            with stage.output(shard) as output:
                # Whatever there is: some text towers have a tokenizer of several files.
                for path in sorted(path for path in trained.export.rglob("*") if path.is_file()):
                    path.replace(output.path(f"{job.name}/{path.relative_to(trained.export)}"))
                trained.metrics.replace(output.path(f"{tables}_metrics/metrics.parquet"))
                if trained.evaluations:
                    trained.evaluations.replace(output.path(f"{tables}_evaluations/evaluations.parquet"))
                output.rows = trained.steps
                output.stats = {"steps": trained.steps, "samples_seen": trained.steps * config.batch_size}
                output.stats |= {"model": config.model, "initial": config.initial}
                output.stats |= {"exported_step": trained.exported_step} if config.keep_best else {}
            shutil.rmtree(job.output, ignore_errors=True)
            forget_elsewhere(root, job)

    return stage.run(train)


def with_teacher_temperature(root: Path, config: StudentConfig) -> StudentConfig:
    """The student with the temperature of the teacher under this root, where a term needs it and none was given.

    Of the job alone: the fingerprint of its stage knows the teacher by the shards.
    """
    losses = config.losses
    if not Needs.of(losses).teacher_temperature or losses.relation.teacher_temperature is not None:
        return config
    scale = logit_scale(root)
    relation = losses.relation.model_copy(update={"teacher_temperature": 1 / scale if scale else None})
    return config.model_copy(update={"losses": losses.model_copy(update={"relation": relation})})


def contrastive_alone(config: StudentConfig) -> StudentConfig:
    """The student as the baseline trains it."""
    alone = LossesConfig(
        contrastive=config.losses.contrastive, cluster=ClusterConfig(weight=0), instance=InstanceConfig(weight=0)
    )
    return config.model_copy(update={"losses": alone})


def _measured_on(config: StudentConfig, datasets: Sequence[Path] | None) -> StudentConfig:
    """The same student with the folders of its evaluation sets in place of their names."""
    if datasets is None:
        return config
    folders = [str(path.resolve()) for path in evaluation_sets(datasets)[0]]
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"datasets": folders})})


def inherited(job: TrainingJob) -> list[str]:
    """What first weights were made from, if not from a seed."""
    return [job.fingerprint()] if job.student.initial != "scratch" else []


def _teacher(root: Path, config: StudentConfig) -> Path | None:
    """Its folder, for a student that inherits from it."""
    if config.initial != TEACHER:
        return None
    read_result(root, "teacher")
    return teacher_folder(root).resolve()


def model_content(config: StudentConfig) -> Any:
    """The content of a model config file, so that an edit of it is noticed."""
    path = Path(config.model)
    return json.loads(path.read_text()) if path.is_file() else config.model

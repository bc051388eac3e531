"""What would end a training run, said before a download and embeddings that take days.

Everything here is read from settings, small files and the first bytes of large ones; nothing is trained or loaded.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.clip.checkpoint import check_weights, looks_like_a_path
from pipeline.clip.model import WEIGHTS_FILE
from pipeline.clip.model_config import check_text_tower, has_batch_norm, is_hugging_face
from pipeline.core.errors import ConfigError, MissingInputError, PipelineError, ShardError
from pipeline.core.settings import DEMO
from pipeline.storage.result import read_result
from pipeline.teacher.stage import logit_scale
from training.ablation.grid import cells_of
from training.config import AblationConfig, StudentConfig
from training.config.student import CLUSTER_ERROR, SCRATCH, TEACHER
from training.data.weighing import check_weights_file
from training.data.weights import read_cluster_weights
from training.evaluation.collection import evaluation_sets
from training.evaluation.small import open_small_set
from training.job.contradictions import contradictions, unknown_measure
from training.job.training_job import NO_TEACHER_TEMPERATURE, TrainingJob
from training.launch.hosts import read_hostfile
from training.launch.ranks import with_ranks
from training.losses.active import Needs
from training.model.config import read_model_config, student_tokenizer
from training.ranks import count_gpus
from training.stage import contrastive_alone

_GPU_FILES = ("nvidiactl", "nvidia0", "kfd", "dxg")


def check_student(
    config: StudentConfig,
    *,
    here: bool,
    baseline: bool = False,
    ablation: AblationConfig | None = None,
    clusters: int | None = None,
    root: Path | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Raise :class:`ConfigError` with a line for everything about a student that could not be trained.

    ``here``: on this machine, whose GPUs decide what is left open. ``baseline``, ``ablation``: what else is trained.
    ``clusters``: how many there will be. ``root``: where something may be already.
    ``datasets``: evaluation sets that the student is measured on while it trains.
    """
    model = read_model_config(config.model)
    lines = list(_of_model(config, model))
    ranks = config.ranks
    try:
        if config.hostfile:
            ranks = ranks or sum(read_hostfile(Path(config.hostfile)).values())
        elif here:
            ranks = _ranks_here(config)
    except ConfigError as error:
        lines.append(str(error))
    lines += contradictions(config, ranks=ranks, batch_norm=has_batch_norm(model), clusters=clusters)
    if root and _lacks_teacher_temperature(config, root):
        lines.append(NO_TEACHER_TEMPERATURE)
    if config.weights == CLUSTER_ERROR and config.weights_file:
        try:
            check_weights_file(Path(config.weights_file), root)
            read_cluster_weights(Path(config.weights_file), clusters=clusters)
        except (ConfigError, ShardError) as error:
            lines.append(str(error))
    if here and not config.hostfile and config.precision == "fp16" and not count_gpus(_visible()):
        lines.append("student.precision fp16 needs a GPU, of which there is none here: bf16 or fp32")
    lines += _of_evaluation(config, datasets, baseline)
    if baseline and not config.losses.contrastive.weight:
        lines.append(
            "baseline.enabled trains with the contrastive term alone, and student.losses.contrastive.weight is 0"
        )
    if ablation:
        lines += _of_ablation(ablation, config, ranks, clusters, root)
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))


def _of_model(config: StudentConfig, model: dict[str, object]) -> Iterator[str]:
    try:
        check_text_tower(model)
        if is_hugging_face(model):
            student_tokenizer(config.model, model)
    except ConfigError as error:
        prefix = f"student model {config.model!r}: "
        yield prefix + str(error).removeprefix(prefix)
    if config.initial in (SCRATCH, TEACHER):
        return
    try:
        _check_initial(config)
    except ConfigError as error:
        yield f"student.initial {config.initial!r}: {error}"


def _check_initial(config: StudentConfig) -> None:
    path = Path(config.initial)
    if path.exists() or looks_like_a_path(config.initial):
        check_weights(path / WEIGHTS_FILE if path.is_dir() else path)
        return
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.initial not in tags:
        known = ", ".join(tags) or "none"
        raise ConfigError(
            f"neither `{SCRATCH}`, `{TEACHER}`, a file or folder, nor a pretrained tag of {config.model!r}, which has: "
            f"{known}"
        )


def _ranks_here(config: StudentConfig) -> int | None:
    job = TrainingJob(name="student", student=config, shards=Path(), output=Path())
    return with_ranks(job, visible=_visible()).student.ranks


def _visible() -> str | None:
    """``CUDA_VISIBLE_DEVICES``; empty on a machine without any file of a GPU, so that nobody imports torch to count."""
    there = any(Path("/dev", name).exists() for name in _GPU_FILES)
    return os.environ.get("CUDA_VISIBLE_DEVICES") if there else ""


def _lacks_teacher_temperature(config: StudentConfig, root: Path) -> bool:
    """Whether a term needs a temperature that nobody knows: embeddings are there, but not the teacher of them."""
    if not Needs.of(config.losses).teacher_temperature or config.losses.relation.teacher_temperature is not None:
        return False
    try:
        read_result(root, "teacher_embeddings")
    except MissingInputError:
        return False
    try:
        return logit_scale(root) is None
    except MissingInputError:
        return True


def _of_evaluation(config: StudentConfig, datasets: Sequence[str], baseline: bool) -> Iterator[str]:
    """What the ranks would find wrong with sets and measures once all stages before them have ended."""
    if not config.evaluate_every:
        return
    evaluate, tasks = config.evaluate, dict[str, Sequence[str]]()
    try:
        sets, _ = evaluation_sets([Path(name) for name in datasets])
    except ConfigError as error:
        yield f"student.evaluate.datasets: {error}"
        return
    for path in sets:
        if path.name in tasks:
            yield f"student.evaluate.datasets: two sets are called {path.name!r}"
            continue
        # The demo's is not made yet. It has all that any task needs.
        tasks[path.name] = evaluate.tasks
        if str(path) == DEMO:
            continue
        try:
            tasks[path.name] = open_small_set(path, evaluate.tasks, samples=evaluate.samples).tasks
        except PipelineError as error:
            yield f"student.evaluate.datasets: {error}"
    lines = list(unknown_measure(config, tasks))
    if baseline and not lines:
        lines = [f"baseline.enabled: {line}" for line in unknown_measure(contrastive_alone(config), tasks)]
    yield from lines


def _of_ablation(
    ablation: AblationConfig, student: StudentConfig, ranks: int | None, clusters: int | None, root: Path | None
) -> Iterator[str]:
    try:
        cells = cells_of(ablation, student)
    except ConfigError as error:
        yield str(error)
        return
    for cell in cells:
        for line in contradictions(cell.student, ranks=ranks, clusters=clusters):
            yield f"ablation {cell.losses}: {line}" if "every loss term" in line else line
        if root and _lacks_teacher_temperature(cell.student, root):
            yield NO_TEACHER_TEMPERATURE

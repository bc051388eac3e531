"""What the settings of a student cannot mean together, whatever data it is trained on."""

from collections.abc import Iterator, Mapping, Sequence

from training.config import StudentConfig
from training.config.student import CLUSTER_ERROR
from training.evaluation.small import measures
from training.losses.active import weights_of


def contradictions(
    student: StudentConfig, *, ranks: int | None, batch_norm: bool | None = None, clusters: int | None = None
) -> Iterator[str]:
    """A line for each. ``ranks``, ``batch_norm`` (whether the model has it), ``clusters``: none where not yet known."""
    parts = (ranks or 1) * student.micro_batches
    if student.batch_size % parts:
        yield (
            f"student.batch_size {student.batch_size} is not a multiple of ranks x micro_batches, "
            f"{ranks or 'any'} x {student.micro_batches}"
        )
    elif batch_norm and student.batch_size == parts:
        yield (
            f"student.batch_size {student.batch_size} in {parts} parts (ranks x micro_batches) leaves one sample in "
            f"each, and student.model {student.model!r} has BatchNorm, which needs two"
        )
    if student.precision != "fp32" and student.stage == 0:
        yield (
            f"student.precision {student.precision} needs ZeRO stage 1, 2 or 3, whose float32 weights can be saved; "
            f"student.zero_stage is 0"
        )
    if batch_norm and student.precision == "fp16":
        yield (
            f"student.model {student.model!r} has BatchNorm, whose statistics need float32: student.precision has to "
            "be bf16 or fp32, or the student one with a ViT image tower"
        )
    if student.average_decay and student.stage == 3:
        yield "student.average_decay needs whole weights on every rank: student.zero_stage 0, 1 or 2"
    if (student.weights == CLUSTER_ERROR) != (student.weights_file is not None):
        yield (
            "student.weights cluster_error needs student.weights_file, and no other reads it: got "
            f"{student.weights} with {student.weights_file or 'none'}"
        )
    yield from _of_losses(student, ranks, clusters)
    yield from _of_evaluation(student)


def _of_evaluation(student: StudentConfig) -> Iterator[str]:
    evaluate = student.evaluate
    if evaluate.held_out_samples % student.batch_size:
        yield (
            f"student.evaluate.held_out_samples {evaluate.held_out_samples} is not a multiple of student.batch_size "
            f"{student.batch_size}"
        )
    if student.keep_best is not None and not student.evaluate_every:
        yield f"student.keep_best {student.keep_best!r} needs evaluations: student.evaluate_every above 0"
    if student.evaluate_every and evaluate.datasets == [] and not evaluate.held_out_samples:
        yield "student.evaluate_every: student.evaluate has neither datasets nor held_out_samples to measure on"


def unknown_measure(student: StudentConfig, tasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line if the weights to export are chosen by what is not measured. ``tasks``: those of each evaluation set."""
    known = measures(tasks, weights_of(student.losses) if student.evaluate.held_out_samples else ())
    if student.evaluate_every and student.keep_best is not None and student.keep_best not in known:
        yield f"student.keep_best {student.keep_best!r} is not measured; what is: {', '.join(known) or 'nothing'}"


def _of_losses(student: StudentConfig, ranks: int | None, clusters: int | None) -> Iterator[str]:
    cluster = student.losses.cluster
    if cluster.learnable and (student.precision == "fp16" or cluster.storage == "fp16"):
        yield (
            "student.losses.cluster.learnable needs float32: student.precision fp32 or bf16, and "
            "student.losses.cluster.storage fp32"
        )
    if cluster.learnable and (ranks or 1) > 1 and not cluster.divided:
        yield "learnable centroids are divided over the ranks: set student.losses.cluster.divided"
    active = weights_of(student.losses)
    if cluster.positives > 1 and cluster.weight and "cluster_label" not in active:
        yield (
            f"student.losses.cluster.positives {cluster.positives} are labels of the cross-entropy, and "
            "student.losses.cluster.label_weight is 0"
        )
    if clusters is not None and "cluster_label" in active and 1 < cluster.positives >= clusters:
        yield (
            f"student.losses.cluster.positives {cluster.positives} has to be less than the number of clusters, "
            f"{clusters}"
        )
    if not active:
        yield "student.losses: every loss term has weight 0; at least one must be positive"

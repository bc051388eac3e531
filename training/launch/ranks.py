"""How many ranks a job gets where its config leaves that open."""

from pathlib import Path

from pipeline.core.errors import ConfigError
from training.config.student import RANKS_WITHOUT_GPU
from training.job.training_job import TrainingJob
from training.launch.hosts import read_hostfile
from training.ranks import count_gpus


def with_ranks(job: TrainingJob, *, visible: str | None) -> TrainingJob:
    """The job with its number of ranks. ``visible``: the ranks' ``CUDA_VISIBLE_DEVICES``.

    Raises :class:`ConfigError` where a job wants more ranks than this machine has GPUs: two ranks cannot share one. A
    machine without any has as many ranks as are asked for.
    """
    ranks = job.student.ranks
    if job.student.hostfile:
        return job.on(ranks or sum(read_hostfile(Path(job.student.hostfile)).values()))
    gpus = count_gpus(visible)
    if ranks and 0 < gpus < ranks:
        seen = "this machine has" if visible is None else f"CUDA_VISIBLE_DEVICES {visible!r} leaves"
        raise ConfigError(f"student.ranks is {ranks}, but {seen} {gpus} GPUs; each rank needs one of its own")
    return job.on(ranks or gpus or RANKS_WITHOUT_GPU)

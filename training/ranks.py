"""How many processes train, where a job leaves it open: one on each GPU, or on each slot of the hostfile."""

import os
from pathlib import Path

from pipeline.errors import ConfigError
from training.config import RANKS_WITHOUT_GPU
from training.hosts import read_hostfile
from training.job import TrainingJob


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


def ranks_here() -> int:
    """Of a process that a launcher started: how many there are of it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_of_machine() -> int:
    """Of a process that a launcher started: how many of its kind this machine has."""
    return int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or 1)


def cores_of_rank() -> int:
    """A rank's share of the cores that it may run on; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // ranks_of_machine(), 1)


def count_gpus(visible: str | None) -> int:
    """GPUs that a process with this ``CUDA_VISIBLE_DEVICES`` has; none of them is taken into use for it."""
    named = None if visible is None else visible_devices(visible)
    if named == []:
        return 0
    import torch

    found = torch.cuda.device_count()
    return found if named is None else min(found, len(named))


def visible_devices(visible: str) -> list[str]:
    """The devices that ``CUDA_VISIBLE_DEVICES`` names; as CUDA reads it, the list ends at the first -1."""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names

"""How many processes train, where a job leaves it open: one on each GPU, or on each slot of the hostfile."""

import os


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

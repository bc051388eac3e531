"""How many processes read and decode for a rank, where the settings leave it open."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from training.ranks import cores_of_rank, ranks_of_machine

if TYPE_CHECKING:
    import torch

    from training.data.dataset import TrainingSet

_MOST = 8
# Batches that a loader process has ready or under way: torch's own default.
_AHEAD = 2
_SHARED_MEMORY = Path("/dev/shm")


def loader_workers(asked: int | None, samples: "TrainingSet", *, rows: int, device: "torch.device") -> int:
    """``asked``, or where that is none: 0 without a GPU, else what cores and shared memory allow.

    ``rows``: samples of a rank's batch.
    """
    if asked is not None or device.type != "cuda":
        return asked or 0
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    return affordable_workers(
        cores=cores_of_rank(), batch_bytes=rows * samples.sample_bytes(), shared_bytes=free // ranks_of_machine()
    )


def affordable_workers(*, cores: int, batch_bytes: int, shared_bytes: int) -> int:
    """A core stays with the training process. Batches come through shared memory, of which containers often have 64 MB:
    a loader that fills it dies of a bus error, so no more than half of it is counted on."""
    return max(min(_MOST, cores - 1, shared_bytes // 2 // (_AHEAD * batch_bytes)), 0)

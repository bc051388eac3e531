"""Where the time of a run goes: steps, and waiting for data."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch


class Clock:
    """Hands on batches and times how long they take to come. Starts at ``step``."""

    def __init__(self, batches: Iterable[Any], *, step: int):
        self._batches, self._step = batches, step
        self._since, self._waited = time.monotonic(), 0.0

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._batches)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile is no part of a lap."""
        stopped = time.monotonic()
        yield
        self._since += time.monotonic() - stopped

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        """Since the last lap: samples per second, the share of the time that went into waiting for data; peak memory.

        Memory in GB: of the GPU where there is one, else the resident set of this process.
        """
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        found = {
            "samples_per_second": (step - self._step) * batch_size / seconds,
            "data_stall": self._waited / seconds,
            "memory_gb": _peak_memory_gb(),
        }
        self._step, self._since, self._waited = step, now, 0.0
        return found


def _peak_memory_gb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    # In kilobytes on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0) / 1e9

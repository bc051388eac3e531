"""A rank ends when what started it has ended, on its own machine; ``lifeline.py`` sees to other machines."""

import os
import threading
import time
from pathlib import Path

import psutil

from pipeline.core.processes import die_with_parent

_SECONDS_BETWEEN_CHECKS = 2.0
_RUNNERS = ("deepspeed", "deepspeed.launcher.runner")


def end_with_parent(parent: int) -> None:
    """End this process when ``parent`` does: the kernel sees to it on Linux, a thread elsewhere.

    And when the command `deepspeed` does, if it is what started the parent: killed, it would leave it behind.
    """
    die_with_parent(parent)
    runner = _runner(parent)

    def watch() -> None:
        while os.getppid() == parent and parent != 1 and (runner is None or _parent_of(parent) == runner):
            time.sleep(_SECONDS_BETWEEN_CHECKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _runner(launcher: int) -> int | None:
    """The process of the command `deepspeed`, if that is what started the launcher."""
    above = _parent_of(launcher)
    try:
        words = psutil.Process(above).cmdline() if above else []
    except psutil.Error:
        return None
    return above if any(Path(word).name in _RUNNERS for word in words) else None


def _parent_of(process: int) -> int | None:
    try:
        return int(psutil.Process(process).ppid())
    except psutil.Error:
        return None

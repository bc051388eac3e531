"""Child processes that never outlive us: own process group, ended with the parent, ended whole."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.openmp import limit_spinning

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: between fork and exec a child should do as little as possible.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens (Linux; elsewhere a no-op).

    The kernel says nothing of a parent that had ended before it was asked: ``parent`` is the process id that it must
    still have, or this process ends at once. Workers of multiprocessing know it by themselves.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    starter = multiprocessing.parent_process()
    expected = parent if parent is not None or starter is None else starter.pid
    if expected is not None and os.getppid() != expected:
        os._exit(1)


def start_group(command: list[str], *, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start ``command`` in a process group of its own, stdout and stderr to ``log``; it dies with this process."""
    environment = {**os.environ, **(env or {})}
    limit_spinning(environment)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one system call, its function looked up beforehand
        )


def run_alone(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What a function returns, run in a process of its own that dies with this one: for libraries that cannot share."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent) as pool:
        return pool.submit(function, *arguments, **options).result()


def python_path() -> str:
    """``PYTHONPATH`` by which other processes, from any working directory, find the project where this one did."""
    project = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(dict.fromkeys([project, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


def end_group(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End every process of the group: SIGTERM, then SIGKILL for what is left after ``grace_s`` seconds."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    # The leader may be gone while others of its group are not.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def is_dead(machine: str, process: int) -> bool:
    """Whether a process is known to be gone; of one that ran on another machine nothing is known."""
    if machine != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Somebody else's, and alive.
        return False
    return False


def tail(path: Path, lines: int = 20) -> str:
    """The last ``lines`` lines of a log, for an error message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

"""Start a training run with DeepSpeed's launcher, follow its metrics, and leave no process of it behind."""

import base64
import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core import errors
from pipeline.core.disk import full_disk
from pipeline.core.errors import PipelineError, TrainingError
from pipeline.core.processes import end_group, python_path, start_group, tail
from training.job.metrics import read_rows
from training.job.training_job import TrainingJob
from training.launch.hosts import check_hosts, started_on_hosts
from training.launch.ports import reserved_port
from training.launch.ranks import with_ranks
from training.ranks import visible_devices

log = logging.getLogger(__name__)

# DeepSpeed's launcher gives its ranks 30 s after SIGTERM before it kills them; a rank may be writing a checkpoint.
_GRACE_S = 40.0
_POLL_S = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run that ended well has made, and how long start-up and steps took."""

    export: Path
    metrics: Path
    evaluations: Path | None
    steps: int
    exported_step: int
    resumed_from: int
    startup_s: float
    training_s: float


def run_training(
    job: TrainingJob,
    *,
    env: dict[str, str] | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> TrainingResult:
    """Train ``job.student`` on ``ranks`` processes, of this machine or of those in its hostfile, and wait for the end.

    A job whose output folder holds checkpoints of the same job goes on from the newest. ``env``: variables for the
    ranks, e.g. those of a Dagster Pipes session. ``on_metrics`` is called with every row of metrics soon after it was
    written. Raises the ranks' own typed error, or :class:`TrainingError` with the end of their log. Whatever ends this
    call (an exception, Ctrl-C, SIGTERM) ends all ranks, which get 40 s to write a checkpoint.
    """
    env = {"PYTHONPATH": python_path(), **(env or {})}
    job = with_ranks(job, visible=_visible(env))
    job.check()
    if job.student.hostfile:
        check_hosts(job)
    job.output.mkdir(parents=True, exist_ok=True)
    for stale in (job.failure_file, job.result_file):
        stale.unlink(missing_ok=True)
    job_file, log_file = job.output / "job.json", job.output / "training.log"
    job_file.write_text(job.model_dump_json(indent=1))
    rows = _MetricsFollower(job.metrics_file, on_metrics)
    start = started_on_hosts if job.student.hostfile else _started_here
    with (
        _sigterm_raises(),
        reserved_port() as port,
        start(job, job_file=job_file, log_file=log_file, env=env, port=port, grace_s=_GRACE_S) as process,
    ):
        while process.poll() is None:
            rows.poll()
            time.sleep(_POLL_S)
    rows.poll()
    _raise_failure(job, process, log_file)
    return TrainingResult(
        export=job.export_folder,
        metrics=job.metrics_table,
        evaluations=job.evaluations_table if job.evaluations_table.exists() else None,
        **json.loads(job.result_file.read_text()),
    )


@contextlib.contextmanager
def _started_here(
    job: TrainingJob, *, job_file: Path, log_file: Path, env: dict[str, str], port: int, grace_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """DeepSpeed's node-local launcher. Its `deepspeed` runner would start the same, but leaves orphans on SIGKILL."""
    assert job.student.ranks is not None
    devices = _devices(job.student.ranks, _visible(env))
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--quiet"),
        *(f"--world_info={world}", "--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}"),
        *("--module", "training.train", "--launched", "--config", str(job_file.resolve())),
    ]
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    process = start_group(command, log=log_file, env={"GLOO_SOCKET_IFNAME": loopback, **env})
    try:
        yield process
    finally:
        end_group(process, grace_s=grace_s)


def _devices(ranks: int, visible: str | None) -> list[str]:
    """A device for each rank, of those that ``CUDA_VISIBLE_DEVICES`` names, which the launcher would overwrite."""
    named = [str(number) for number in range(ranks)] if visible is None else visible_devices(visible)
    # Fewer are named only where there is no GPU; ranks stay without then, whatever they may see.
    return named[:ranks] if len(named) >= ranks else ["-1"] * ranks


def _visible(env: dict[str, str]) -> str | None:
    return {**os.environ, **env}.get("CUDA_VISIBLE_DEVICES")


class _MetricsFollower:
    """Hands on each new row of a file that another process appends to."""

    def __init__(self, path: Path, on_row: Callable[[dict[str, Any]], None] | None):
        self._path, self._on_row = path, on_row
        self._before = _inode(path)
        self._seen = 0

    def poll(self) -> None:
        """Call back for the rows that came since; rows of an earlier run count from when this one replaced the file."""
        if self._on_row is None or _inode(self._path) in (None, self._before):
            return
        rows = read_rows(self._path)
        for row in rows[self._seen :]:
            self._on_row(row)
        self._seen = len(rows)


def _raise_failure(job: TrainingJob, process: subprocess.Popen[bytes], log_file: Path) -> None:
    if job.failure_file.exists():
        try:
            failure = json.loads(job.failure_file.read_text())
        except ValueError:
            # The rank could make the file, but not write into it.
            raise full_disk(job.output) from None
        kind = getattr(errors, failure["type"], None)
        if isinstance(kind, type) and issubclass(kind, PipelineError):
            damaged = failure.get("damaged")
            raise kind(f"{job.name}: {failure['message']}", damaged=Path(damaged) if damaged else None)
        raise TrainingError(f"{job.name}: {failure['type']}: {failure['message']}\n{tail(log_file)}")
    if process.returncode or not job.result_file.exists():
        raise TrainingError(
            f"{job.name}: training ended with status {process.returncode} before its result was written; "
            f"the end of {log_file}:\n{tail(log_file)}"
        )


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind this process where it would end it at once; handlers of others are left alone."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handler(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None

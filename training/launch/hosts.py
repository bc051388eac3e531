"""A training run on the machines of a hostfile, through DeepSpeed's own runner and pdsh."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.processes import start_group
from training.job.training_job import TrainingJob
from training.launch.lifeline import Lifeline, address_towards

_ENTRY = re.compile(r"(\S+)\s+slots=(\d+)\b")
_RUNNER_ENDS_S = 20.0


def read_hostfile(path: Path) -> dict[str, int]:
    """Processes by machine, in the order of the file; :class:`ConfigError` for what DeepSpeed would not take."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"student.hostfile {path} cannot be read: {error}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        entry = _ENTRY.match(text)
        if text and (entry is None or entry[1] in hosts):
            raise ConfigError(f"{path}, line {number}: expected `host slots=n`, each host once, got {text!r}")
        if entry:
            hosts[entry[1]] = int(entry[2])
    if not hosts:
        raise ConfigError(f"{path} names no host")
    return hosts


def check_hosts(job: TrainingJob) -> dict[str, int]:
    """The machines of a job that has a hostfile; :class:`ConfigError` if it cannot run on them."""
    assert job.student.hostfile is not None
    hosts = read_hostfile(Path(job.student.hostfile))
    if sum(hosts.values()) != job.student.ranks:
        raise ConfigError(
            f"student.ranks is {job.student.ranks}, but {job.student.hostfile} has {sum(hosts.values())} slots"
        )
    if shutil.which("pdsh") is None:
        raise ConfigError("student.hostfile needs pdsh, by which DeepSpeed reaches the machines; it is not installed")
    return hosts


@contextlib.contextmanager
def started_on_hosts(
    job: TrainingJob, *, job_file: Path, log_file: Path, env: dict[str, str], port: int, grace_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """DeepSpeed's runner, in a process group of its own. At the end of the block the ranks are asked to stop.

    Nothing is left to signals: the runner answers SIGTERM with a `pkill` of *every* DeepSpeed launcher that a machine
    has from this Python, those of other runs too.

    Args:
        job: the run; its student has the hostfile.
        job_file: the job as every rank reads it.
        log_file: where the output of all goes.
        env: variables for the ranks.
        port: where they meet.
        grace_s: seconds after which ranks that are still there are ended at once.

    Yields:
        The runner's process.
    """
    hosts = check_hosts(job)
    first = job.student.master_address or next(iter(hosts))
    started: list[subprocess.Popen[bytes]] = []
    lifeline = Lifeline(address_towards(first), on_lost=lambda: _end_runner(started))
    lifeline_file, environment = job.output / "lifeline.json", job.output / "environment"
    _write_privately(lifeline_file, lifeline.address)
    _write_privately(environment, _environment(env))
    try:
        command = _command(job, job_file, lifeline_file, port)
        process = start_group(command, log=log_file, env={**env, "DS_ENV_FILE": str(environment.resolve())})
        started.append(process)
        yield process
    finally:
        lifeline.stop(grace_s=grace_s)
        _end_runner(started)


def _command(job: TrainingJob, job_file: Path, lifeline_file: Path, port: int) -> list[str]:
    address = [f"--master_addr={job.student.master_address}"] if job.student.master_address else []
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--force_multi", "--quiet"),
        *("--hostfile", str(Path(job.student.hostfile or "").resolve()), *address, f"--master_port={port}"),
        *("--module", "training.train", "--lifeline", str(lifeline_file.resolve())),
        *("--config", str(job_file.resolve())),
    ]


def _environment(env: dict[str, str]) -> str:
    """What DeepSpeed exports on every machine: the user's own file, which ours stands in for, and ``env``."""
    own = Path(os.environ.get("DS_ENV_FILE", Path.home() / ".deepspeed_env"))
    lines = own.read_text().splitlines() if own.is_file() else []
    return "".join(f"{line}\n" for line in [*lines, *(f"{name}={value}" for name, value in env.items())] if line)


def _end_runner(started: list[subprocess.Popen[bytes]]) -> None:
    """Its ranks have ended, so it ends by itself; if a connection hangs, it is killed."""
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_RUNNER_ENDS_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _write_privately(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)

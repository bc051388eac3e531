"""``clip-cid run``: a job, as ``dagster job execute`` runs it."""

import difflib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import FAILED, INTERRUPTED, Debug, Json, reported
from pipeline.core.errors import ConfigError, PipelineError

JOBS = {
    "clip_cid": ("images", "student", "baseline"),
    "curate": ("images",),
    "distill": ("student", "baseline"),
    "ablation": ("images", "ablation_results"),
}
"""Of each job those of its assets that something outside the data can be wrong for."""


@reported
def run(
    job: Annotated[str, typer.Argument(help=f"One of {', '.join(JOBS)}.")] = "clip_cid",
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A run config; the demo's without one.", exists=True, dir_okay=False),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Run a job.

    What is done already is not done again. The config is checked before anything starts.
    """
    del debug
    if job not in JOBS:
        near = difflib.get_close_matches(job, JOBS, 1)
        raise ConfigError(
            f"no job {job!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(JOBS)}")
        )
    from assets.run_config import as_run_config, read_run_config
    from assets.settings import Settings, check_run

    settings = read_run_config(config) if config else Settings()
    check_run(settings, JOBS[job])
    with tempfile.TemporaryDirectory(prefix="clip-cid-") as folder:
        path = Path(folder, "run.yaml")
        path.write_text(as_run_config(settings))
        code = _execute(
            [sys.executable, "-m", "dagster", "job", "execute", "-m", "assets.definitions", "-j", job, "-c", str(path)],
            quiet=json_,
        )
    if code:
        raise _Ended(code)
    return {"job": job, "root": settings.root, "summary": f"{job}: done, everything is under {settings.root}"}


class _Ended(PipelineError):
    """The job has said why; its code is passed on."""

    def __init__(self, code: int):
        self.exit_code = INTERRUPTED if code in (-signal.SIGINT, INTERRUPTED) else FAILED
        super().__init__("the job failed; its log above says why")


def _execute(command: list[str], *, quiet: bool) -> int:
    """The exit code of a process that gets what a terminal or a supervisor sends to this one."""
    process = subprocess.Popen(command, env=os.environ, stdout=sys.stderr if quiet else None)
    previous = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    interrupted = False
    try:
        while True:
            try:
                code = process.wait()
                return INTERRUPTED if interrupted and code else code
            except KeyboardInterrupt:
                # A terminal has sent it to the job too, which ends its own processes.
                interrupted = True
    finally:
        signal.signal(signal.SIGTERM, previous)

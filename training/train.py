"""One rank of a training run, started by DeepSpeed's launcher: ``deepspeed training/train.py --config job.yaml``."""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.disk import storage_errors
from pipeline.core.errors import PipelineError
from pipeline.core.openmp import limit_spinning
from training.job.training_job import TrainingJob
from training.launch.leave import leave
from training.launch.lifeline import Held
from training.launch.rank_exit import end_with_parent
from training.loop.stop import StopFlag, StopRequested
from training.ranks import cores_of_rank

STOPPED = 143
"""Exit status of a rank that wrote a checkpoint because of SIGTERM: 128 + 15, as shells count."""

log = logging.getLogger("training")


def main() -> int:
    """Train as the job file says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON file of a TrainingJob")
    parser.add_argument("--local_rank", type=int, default=0, help="given by DeepSpeed's launcher")
    parser.add_argument("--launched", action="store_true", help="the parent must be the leader of this session")
    parser.add_argument("--lifeline", type=Path, help="file with the address of what started ranks on many machines")
    options = parser.parse_args()
    # The launcher leads its session; if it has ended already, the parent is another process by now.
    end_with_parent(os.getsid(0) if options.launched else os.getppid())
    stop = StopFlag()
    stop.install()
    tie = Held(options.lifeline.read_text(), on_stop=stop.raise_flag) if options.lifeline else None
    _share_cores()
    log.setLevel(logging.INFO)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    job = TrainingJob.read(options.config)

    # Only now torch is imported, which counts cores.
    from training.run import run

    # Whoever starts ranks with a plain command has not made it.
    job.output.mkdir(parents=True, exist_ok=True)
    if not (options.launched or options.lifeline) and os.environ.get("RANK", "0") == "0":
        for stale in (job.failure_file, job.result_file):
            stale.unlink(missing_ok=True)
    try:
        with _logger() as logger, storage_errors(job.output):
            run(job, logger, stop, tie)
    except StopRequested as request:
        log.info(str(request))
        return STOPPED
    except Exception as error:
        log.exception("rank %s failed", os.environ.get("RANK", "0"))
        _report(job, error)
        # Not a return: at exit, threads of the process group could wait for ranks that are still at work.
        sys.stdout.flush()
        os._exit(1)
    return 0


def _share_cores() -> None:
    """The ranks of a machine share its cores, unless somebody has said otherwise."""
    limit_spinning()
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_of_rank()))


@contextlib.contextmanager
def _logger() -> Iterator[logging.Logger]:
    """Rank 0's way to Dagster where Dagster started this run; plain logging otherwise."""
    if os.environ.get("RANK", "0") == "0" and "DAGSTER_PIPES_CONTEXT" in os.environ:
        from dagster_pipes import open_dagster_pipes

        with open_dagster_pipes() as context:
            # The log file of the run has the lines too.
            for handler in logging.getLogger().handlers:
                context.log.addHandler(handler)
            yield context.log
    else:
        yield log


def _report(job: TrainingJob, error: Exception) -> None:
    """Leave the error for the process that started the run; the first rank that fails knows the cause.

    On a full disk the file stays empty, which says as much.
    """
    try:
        with job.failure_file.open("x") as file:
            damaged = str(error.damaged) if isinstance(error, PipelineError) and error.damaged else None
            file.write(json.dumps({"type": type(error).__name__, "message": str(error), "damaged": damaged}))
    except FileExistsError:
        pass
    except OSError as fault:
        log.error(f"{job.failure_file} cannot be written: {fault}")


if __name__ == "__main__":
    leave(main())

"""Whole jobs that are killed or told to stop, in every stage, and started again: they end like one that was not."""

import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.job import STAGES, Job
from training.job.metrics import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What is there once a stage is at work; where none is named, the temporary folder of a shard that is being written.
AT_WORK = {
    "images": ".tmp/images/img2dataset.log",
    "teacher_embeddings": ".marks/teacher_embeddings/00000.json",
    "student": "runs/student/checkpoints/step-3/complete.json",
    "baseline": "runs/baseline/metrics.jsonl",
}
# Stages that leave the work to other processes: they are killed when such a one is there, as it could be left over.
CHILDREN = {
    "images": "pipeline.download.worker",
    "clusters": "spawn_main",
    "student": "training.train",
    "baseline": "training.train",
}
# What the launcher gives to a rank; it has the first on its own command line too.
RANK = ("training.train", "--local_rank=0")
# Far more than a run takes: one that still waits after so long waits for something that a killed one has kept.
PATIENCE_S = 300
# A run may be over with a short stage before it could be stopped: then that stage is done again.
ATTEMPTS = 4


def at_work(job: Job, stage: str) -> bool:
    if not (job.root / AT_WORK.get(stage, f".tmp/{stage}")).exists():
        return False
    return stage not in CHILDREN or bool(job.at_work(CHILDREN[stage]))


def is_complete(job: Job, stage: str) -> bool:
    return (job.root / ".marks" / stage / "complete.json").exists()


def kill_in_a_stage(job: Job, stages: set[str]) -> str | None:
    """Run all stages until one of ``stages`` is at work and kill it there; None if they came to their end first.

    Without Dagster, which takes its time to start, but for the first after the student.
    """
    dagster = "baseline" in stages and "student" not in stages
    process, deadline = job.start() if dagster else job.start_stages(), time.monotonic() + PATIENCE_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the run waits without end, still to be killed in {stages}:\n{job.output()[-4000:]}")
        for stage in [stage for stage in STAGES if stage in stages and at_work(job, stage)]:
            # Halted before it is looked at, so that a stage cannot be over between the look and the kill.
            process.send_signal(signal.SIGSTOP)
            if not is_complete(job, stage):
                process.kill()
                process.wait()
                return stage
            process.send_signal(signal.SIGCONT)
        time.sleep(0.003)
    assert process.returncode == 0, job.output()[-6000:]
    return None


def stop_while_training(job: Job, number: int) -> None:
    """Run the job and send it a signal, as a terminal or a batch system does, once it has trained a step."""
    metrics = job.root / "runs" / "student" / "metrics.jsonl"
    before, process, deadline = steps(metrics)[-1:], job.start(), time.monotonic() + PATIENCE_S
    while steps(metrics)[-1:] <= before:
        assert process.poll() is None and time.monotonic() < deadline, job.output()[-4000:]
        time.sleep(0.01)
    # The first, where others that load samples are forked from it.
    rank = min(job.at_work(*RANK), key=psutil.Process.create_time)
    # Halted until it has been told, or it could come to its end meanwhile.
    rank.suspend()
    process.send_signal(number)
    while not told_to_end(rank):
        assert time.monotonic() < deadline, job.output()[-4000:]
        time.sleep(0.01)
    rank.resume()
    assert process.wait(PATIENCE_S) != 0
    job.assert_no_process_stays()
    assert not is_complete(job, "student")
    saved = [int(path.parent.name.removeprefix("step-")) for path in checkpoints(job)]
    assert max(saved) == steps(metrics)[-1] > max(before), "what it has done is kept"


def steps(metrics: Path) -> list[int]:
    return [row["step"] for row in read_rows(metrics)] if metrics.exists() else []


def checkpoints(job: Job) -> list[Path]:
    return list((job.root / "runs" / "student" / "checkpoints").glob("step-*/complete.json"))


def told_to_end(process: psutil.Process) -> bool:
    """Whether a SIGTERM waits for a halted process, as far as the system tells, as Linux does."""
    status = Path(f"/proc/{process.pid}/status")
    waiting = re.findall(r"^ShdPnd:\s*(\w+)$", status.read_text(), re.MULTILINE) if status.exists() else []
    return all(int(number, 16) >> (signal.SIGTERM - 1) & 1 for number in waiting)


def test_killed_in_every_stage_and_told_to_stop_gives_the_same_tables(reference: Job, tmp_path: Path) -> None:
    """The training of the student is killed, then ended by Ctrl-C, then by SIGTERM, and only then comes to its end."""
    job = Job(tmp_path / "job")
    left, outputs, first_shard = set(STAGES), [], 0
    for _ in range(len(STAGES) + ATTEMPTS):
        stage = kill_in_a_stage(job, left)
        outputs.append(job.output())
        job.assert_no_process_stays()
        for missed in [name for name in left - {stage} if is_complete(job, name)]:
            shutil.rmtree(job.root / ".marks" / missed)
        if stage == "teacher_embeddings":
            first_shard = (job.root / AT_WORK[stage]).stat().st_mtime_ns
        if stage == "student":
            for number in (signal.SIGINT, signal.SIGTERM):
                stop_while_training(job, number)
        left.discard(str(stage))
        if not left:
            break
    assert not left, f"never caught at work: {left}"
    outputs.append(job.run())
    job.assert_equals(reference)
    # What was finished at the kill was not made again.
    assert (job.root / AT_WORK["teacher_embeddings"]).stat().st_mtime_ns == first_shard
    assert any("resumed after step" in output for output in outputs)

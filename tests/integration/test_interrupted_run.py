"""Whole jobs that are killed or told to stop, in every stage, and started again: they end like one that was not."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.integration.job import STAGES, Job

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
# Far more than a run takes: one that still waits after so long waits for something that a killed one has kept.
PATIENCE_S = 300
# A run may be over with a short stage before it could be stopped: then that stage is done again.
ATTEMPTS = 4


def at_work(job: Job, stage: str) -> bool:
    if not (job.root / AT_WORK.get(stage, f".tmp/{stage}")).exists():
        return False
    return stage not in CHILDREN or job.runs(CHILDREN[stage])


def is_complete(job: Job, stage: str) -> bool:
    return (job.root / ".marks" / stage / "complete.json").exists()


def kill_in_a_stage(job: Job, stages: set[str]) -> str | None:
    """Run all stages until one of ``stages`` is at work and kill it there; None if they came to their end first.

    Without Dagster, which takes its time to start, until the training was killed: it has the log of what goes on there.
    """
    process, deadline = job.start_stages() if "student" in stages else job.start(), time.monotonic() + PATIENCE_S
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
        time.sleep(0.001)
    assert process.returncode == 0, job.output()[-6000:]
    return None


def test_killed_in_every_stage_and_started_again_gives_the_same_tables(reference: Job, tmp_path: Path) -> None:
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
        left.discard(str(stage))
        if not left:
            break
    assert not left, f"never caught at work: {left}"
    outputs.append(job.run())
    job.assert_equals(reference)
    # What was finished at the kill was not made again.
    assert (job.root / AT_WORK["teacher_embeddings"]).stat().st_mtime_ns == first_shard
    assert any("resumed after step" in output for output in outputs)


def test_told_to_stop_while_training_leaves_nothing_at_work(reference: Job, tmp_path: Path) -> None:
    """By Ctrl-C, then by SIGTERM, then not at all."""
    job = Job(tmp_path / "job")
    shutil.copytree(reference.root, job.root)
    shutil.rmtree(job.root / ".marks" / "student")
    begun = job.root / "runs" / "student" / "metrics.jsonl"
    for number in (signal.SIGINT, signal.SIGTERM):
        rows = begun.read_text() if begun.exists() else ""
        process = job.start()
        while not (begun.exists() and begun.read_text() != rows) and process.poll() is None:
            time.sleep(0.01)
        assert job.runs("training.train"), job.output()[-4000:]
        process.send_signal(number)
        assert process.wait(60) != 0
        job.assert_no_process_stays()
        assert not is_complete(job, "student")
        assert list((job.root / "runs" / "student" / "checkpoints").glob("step-*/complete.json"))
    assert "resumed after step" in job.run()
    job.assert_equals(reference)

"""Rows of metrics in TensorBoard's files."""

from pathlib import Path

import pytest

from training.job.training_job import TrainingJob
from training.loop.loggers import open_loggers


def test_tensorboard_gets_every_number(job: TrainingJob) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert open_loggers(job, resume_step=0) == []
    job = job.model_copy(update={"student": job.student.model_copy(update={"loggers": ["tensorboard"]})})
    (logger,) = open_loggers(job, resume_step=0)
    for step in (1, 2):
        logger.write({"step": step, "loss": 2.0 / step, "contrastive": 1.0})
    logger.close()
    events = EventAccumulator(str(job.tensorboard_folder)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "contrastive"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert not Path(job.output).exists(), "what outlives the run is not kept with it"

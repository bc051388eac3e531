"""Rows of metrics in TensorBoard's files."""

import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
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


def test_mlflow_goes_on_with_the_run_of_the_job(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = job.model_copy(update={"student": job.student.model_copy(update={"loggers": ["mlflow"]})})
    for row in ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "retrieval/demo/recall@1": 0.5}):
        (logger,) = open_loggers(job, resume_step=0)
        logger.write(row)
        logger.close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{job.mlflow_file}")
    (run,) = client.search_runs([client.get_experiment_by_name("clip-cid").experiment_id])
    assert run.info.run_name == "student" and run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 1.0, "retrieval/demo/recall_at_1": 0.5}
    assert run.data.params["optimizer.learning_rate"] == "0.003" and run.data.tags["fingerprint"] == job.fingerprint()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]


def test_a_logger_whose_package_is_missing_says_what_to_install(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    job = job.model_copy(update={"student": job.student.model_copy(update={"loggers": ["mlflow"]})})
    with pytest.raises(ConfigError, match=r"pip install 'clip-cid\[mlflow\]'"):
        open_loggers(job, resume_step=0)

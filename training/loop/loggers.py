"""Further places that rows of metrics go to while a run goes on: TensorBoard, Weights & Biases, MLflow."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import ConfigError
from training.job.training_job import TrainingJob

_PROJECT = "clip-cid"


class RowLogger(Protocol):
    """Takes every row of metrics."""

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files for ``tensorboard --logdir <folder>``."""

    def __init__(self, folder: Path, *, resume_step: int):
        from torch.utils.tensorboard import SummaryWriter

        # Rows after the checkpoint are done again: TensorBoard hides what the former run wrote from there on.
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run, resumed under the name of the output folder; its own environment variables say where to and how."""

    def __init__(self, job: TrainingJob):
        import wandb

        identity = job.fingerprint()[:32]
        self._run = wandb.init(
            project=_PROJECT,
            name=job.name,
            id=identity,
            resume="allow",
            dir=str(job.output),
            config=job.student.model_dump(),
        )

    def write(self, row: dict[str, Any]) -> None:
        self._run.log(row, step=row["step"])

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow's experiment `clip-cid`, gone on with under the job's fingerprint: in a database beside the run's
    folder, or where ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self, job: TrainingJob):
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        job.mlflow_file.parent.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{job.mlflow_file.resolve()}"
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(_PROJECT)
        where = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
        identity = job.fingerprint()
        found = self._client.search_runs([where], filter_string=f"tags.fingerprint = '{identity}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(where, run_name=job.name, tags={"fingerprint": identity}).info.run_id
        for name, value in _flat(job.student.model_dump(mode="json")).items():
            self._client.log_param(self._run, name, value)

    def write(self, row: dict[str, Any]) -> None:
        now = int(time.time() * 1000)
        # MLflow takes no @ in a name.
        values = {name.replace("@", "_at_"): value for name, value in row.items() if name != "step"}
        metrics = [self._metric(name, float(value), now, row["step"]) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found


_LOGGERS: dict[str, Callable[[TrainingJob], RowLogger]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def open_loggers(job: TrainingJob, *, resume_step: int) -> list[RowLogger]:
    """The loggers that the config names; :class:`ConfigError` if a package is missing."""
    loggers: list[RowLogger] = []
    for name in job.student.loggers:
        try:
            if name == "tensorboard":
                loggers.append(TensorBoard(job.tensorboard_folder, resume_step=resume_step))
            else:
                loggers.append(_LOGGERS[name](job))
        except ImportError as error:
            raise ConfigError(
                f"logger {name!r} needs a package that is not there ({error}): pip install 'clip-cid[{name}]'"
            ) from error
    return loggers

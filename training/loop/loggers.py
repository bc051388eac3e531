"""Further places that rows of metrics go to while a run goes on: TensorBoard, Weights & Biases."""

from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import ConfigError
from training.job.training_job import TrainingJob


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
            project="clip-cid",
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


def open_loggers(job: TrainingJob, *, resume_step: int) -> list[RowLogger]:
    """The loggers that the config names; :class:`ConfigError` if a package is missing."""
    loggers: list[RowLogger] = []
    for name in job.student.loggers:
        try:
            if name == "tensorboard":
                loggers.append(TensorBoard(job.tensorboard_folder, resume_step=resume_step))
            else:
                loggers.append(WeightsAndBiases(job))
        except ImportError as error:
            raise ConfigError(
                f"logger {name!r} needs a package that is not there ({error}): pip install 'clip-cid[{name}]'"
            ) from error
    return loggers

"""The contract of a training run, and its files."""

from training.job.training_job import TrainingJob

__all__ = ["TrainingJob"]

"""Start a training run, follow it, and leave no process of it behind."""

from training.launch.launcher import TrainingResult, run_training

__all__ = ["TrainingResult", "run_training"]

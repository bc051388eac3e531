"""The training loop: steps, the task, loggers, and how it is stopped."""

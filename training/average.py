"""Two averages: of the weights over steps, and of BatchNorm's statistics over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a module's parameters, in float32.

    After n steps it is ``decay * average + (1 - decay) * weights``, with ``decay`` no more than ``(1 + n) / (10 + n)``,
    so that the first steps do not linger (TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, weights: dict[str, Tensor], *, decay: float):
        self.decay, self.steps = decay, 0
        self.weights = {name: value.detach().float().clone() for name, value in weights.items()}

    def update(self, weights: dict[str, Tensor]) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.weights.items():
            value.lerp_(weights[name].detach().float(), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        named = {f"average/{name}": value for name, value in self.weights.items()}
        return {**named, "average_steps": torch.tensor([self.steps])}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.steps = int(tensors["average_steps"])
        for name, value in self.weights.items():
            value.copy_(tensors[f"average/{name}"])


def average_statistics(module: nn.Module) -> None:
    """Make BatchNorm's running mean and variance the mean over ranks, as gradients are; all ranks call it together.

    Each rank normalises by its own part of the batch (SyncBatchNorm exists for CUDA alone), so their statistics drift
    apart, and a checkpoint holds those of one rank.
    """
    statistics = [
        statistic
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        for statistic in (norm.running_mean, norm.running_var)
        if statistic is not None
    ]
    if not statistics or dist.get_world_size() == 1:
        return
    flat = torch.cat([statistic.float() for statistic in statistics])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for statistic, value in zip(statistics, flat.split([len(statistic) for statistic in statistics])):
        statistic.copy_(value)

"""BatchNorm's statistics over ranks."""

import torch
import torch.distributed as dist
from torch import nn


def average_statistics(module: nn.Module) -> None:
    """Make BatchNorm's running mean and variance the mean over ranks, as gradients are; all ranks call it together.

    Each rank normalizes by its own part of the batch (SyncBatchNorm exists for CUDA alone), so their statistics drift
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

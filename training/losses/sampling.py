"""Which centroids take part in one step: those of the batch's own clusters, and a random share of the others."""

import torch
from torch import Tensor

from training.losses.gather import all_rows, world_size

_SEEDS = 1 << 62


def sample_centroids(total: int, *, rate: float, labels: Tensor, seed: int) -> Tensor:
    """``(total,)`` bool: the centroids of ``labels``, and each other one with probability ``rate``.

    The negatives are those of Partial FC (arXiv 2010.05222), which MLCD uses at rate 0.1. Drawn over all centroids,
    however they are divided, so that the sample does not depend on the number of ranks.
    """
    generator = torch.Generator(device=labels.device).manual_seed(seed)
    chosen = torch.rand(total, generator=generator, device=labels.device) < rate
    chosen[labels] = True
    return chosen


def share_labels(labels_B: Tensor) -> tuple[Tensor, int]:
    """The labels of the global batch, and one seed for all ranks, drawn from the generator of rank 0."""
    seed = torch.randint(_SEEDS, (1,))
    if world_size() == 1:
        return labels_B, int(seed)
    # One exchange for both: a seed by itself would cost another round trip in every step.
    rows = all_rows(torch.cat([labels_B, seed.to(labels_B.device)])).reshape(world_size(), -1)
    return rows[:, :-1].reshape(-1), int(rows[0, -1])

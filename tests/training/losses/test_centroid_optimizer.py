"""Steps on learnable centroids, and their checkpoints under another division."""

from pathlib import Path

import torch
import torch.nn.functional as F

from training.losses.centroid_optimizer import CentroidOptimizer
from training.losses.centroids import Centroids
from training.losses.cluster import ClusterDiscriminationLoss


def _start() -> torch.Tensor:
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


def _step(head: Centroids, optimizer: CentroidOptimizer, seed: int) -> float:
    torch.manual_seed(seed)
    loss = ClusterDiscriminationLoss(head, divergence=False, sample_rate=0.2)
    features = F.normalize(torch.randn(3, 4), dim=-1)
    value = loss(features, cluster_ids=torch.tensor([1, 7, 29]))["cluster_label"]
    value.backward()
    optimizer.step(0.1)
    return value.item()


def test_only_the_sample_moves_and_the_loss_falls() -> None:
    head = Centroids(_start(), learnable=True)
    optimizer = CentroidOptimizer(head, factor=1.0)
    losses = [_step(head, optimizer, seed=1) for _ in range(5)]
    moved = (head.weight.detach() - _start()).abs().sum(dim=1) > 0
    assert losses[-1] < losses[0] and moved[[1, 7, 29]].all() and not moved.all()


def test_a_checkpoint_goes_on_under_another_division(tmp_path: Path) -> None:
    whole = Centroids(_start(), learnable=True)
    optimizer = CentroidOptimizer(whole, factor=1.0)
    _step(whole, optimizer, seed=1)
    optimizer.save(tmp_path / "one")
    halves = [Centroids(torch.zeros(20 - 10 * n, 4), start=20 * n, total=30, learnable=True) for n in range(2)]
    for half in halves:
        part = CentroidOptimizer(half, factor=1.0)
        part.load(tmp_path / "one")
        part.save(tmp_path / "two")
    assert torch.cat([half.weight for half in halves]).equal(whole.weight)
    again = Centroids(torch.zeros(30, 4), learnable=True)
    resumed = CentroidOptimizer(again, factor=1.0)
    resumed.load(tmp_path / "two")
    for head, steps in ((whole, optimizer), (again, resumed)):
        _step(head, steps, seed=2)
    assert again.weight.equal(whole.weight)

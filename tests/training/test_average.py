"""Averages of weights over steps and of BatchNorm's statistics over ranks."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from training.average import WeightAverage, average_statistics
from training.leave import leave


def test_weights_are_averaged_with_a_growing_decay() -> None:
    """Decays 2/11 and 3/12 come before the bound of 0.5."""
    average = WeightAverage({"w": torch.zeros(1)}, decay=0.5)
    average.update({"w": torch.ones(1)})
    torch.testing.assert_close(average.weights["w"], torch.tensor([9 / 11]))
    average.update({"w": torch.zeros(1)})
    torch.testing.assert_close(average.weights["w"], torch.tensor([9 / 11 / 4]))
    copy = WeightAverage({"w": torch.zeros(1)}, decay=0.5)
    copy.load(average.tensors())
    assert copy.steps == 2 and copy.weights["w"].equal(average.weights["w"])


def _rank(rank: int, store: str, output: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3), nn.Linear(2, 2))
    for norm in list(module)[:2]:
        norm.running_mean.fill_(rank)
        norm.running_var.fill_(1 + 2 * rank)
    average_statistics(module)
    torch.save({name: value for name, value in module.state_dict().items() if "running" in name}, f"{output}{rank}")
    dist.destroy_process_group()
    leave(0)


def test_every_rank_has_the_mean_of_all_statistics(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"out{rank}", weights_only=True)
        assert {name: value.tolist() for name, value in found.items()} == {
            "0.running_mean": [0.5] * 2,
            "0.running_var": [2.0] * 2,
            "1.running_mean": [0.5] * 3,
            "1.running_var": [2.0] * 3,
        }

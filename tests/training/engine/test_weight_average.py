"""Averages of weights over steps and of BatchNorm's statistics over ranks."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.training.processes import run_ranks
from training.engine.batch_norm import average_statistics
from training.engine.weight_average import WeightAverage
from training.launch.leave import leave


def test_weights_are_averaged_with_a_growing_decay() -> None:
    """Decays 2/11 and 3/12 come before the bound of 0.5."""
    weights = [torch.zeros(1), torch.zeros(2)]
    average = WeightAverage(weights, decay=0.5)
    for value, expected in ((1.0, 9 / 11), (0.0, 9 / 11 / 4)):
        for weight in weights:
            weight.fill_(value)
        average.update()
        with average.in_place():
            torch.testing.assert_close(torch.cat(weights), torch.full((3,), expected))
        assert torch.cat(weights).tolist() == [value] * 3
    assert average.steps == 2


def test_what_is_written_in_place_of_the_weights_becomes_the_average() -> None:
    weight = torch.ones(1)
    average = WeightAverage([weight], decay=0.5)
    with average.in_place():
        weight.fill_(3.0)
    assert weight.item() == 1
    with average.in_place():
        assert weight.item() == 3


def _rank(rank: int, ranks: int, store: str, output: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3), nn.Linear(2, 2))
    for norm in list(module)[:2]:
        norm.running_mean.fill_(rank)
        norm.running_var.fill_(1 + 2 * rank)
    average_statistics(module)
    torch.save({name: value for name, value in module.state_dict().items() if "running" in name}, f"{output}{rank}")
    dist.destroy_process_group()
    leave(0)


@pytest.mark.slow
def test_every_rank_has_the_mean_of_all_statistics(tmp_path: Path) -> None:
    run_ranks(_rank, [(2, str(tmp_path / "store"), str(tmp_path / "out"))])
    for rank in range(2):
        found = torch.load(tmp_path / f"out{rank}", weights_only=True)
        assert {name: value.tolist() for name, value in found.items()} == {
            "0.running_mean": [0.5] * 2,
            "0.running_var": [2.0] * 2,
            "1.running_mean": [0.5] * 3,
            "1.running_var": [2.0] * 3,
        }

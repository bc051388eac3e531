"""Learning rates against numbers worked out by hand, and against torch."""

import pytest
import torch

from training.engine.schedule import one_cycle, warmup_cosine


def test_warmup_and_cosine() -> None:
    rate = warmup_cosine(peak=1.0, steps=10, warmup=0.2)
    assert [rate(1), rate(2), rate(3)] == [0.5, 1.0, 1.0]
    assert rate(7) == pytest.approx(0.5)
    assert 0 < rate(10) < rate(9) < 0.2
    assert warmup_cosine(peak=1.0, steps=4, warmup=0.0)(1) == 1.0


@pytest.mark.parametrize("steps", [20, 37, 400])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=steps, pct_start=0.1)
    rate = one_cycle(peak=2.0, steps=steps, warmup=0.1)
    for step in range(1, steps + 1):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        if step < steps:
            scheduler.step()

"""Which samples a step sees."""

import numpy as np
import pytest

from pipeline.core.errors import ConfigError
from training.data.order import SampleOrder

ROWS = [7, 0, 13, 5, 9, 11, 3]


def _order(**changes: int) -> SampleOrder:
    return SampleOrder(ROWS, **{"batch_size": 6, "seed": 3, "window_shards": 3, **changes})


def _keys(pairs: np.ndarray) -> list[tuple[int, int]]:
    return [(int(shard), int(row)) for shard, row in pairs]


def test_no_sample_twice_in_an_epoch_and_only_the_incomplete_batch_dropped() -> None:
    order = _order()
    assert order.steps_per_epoch == sum(ROWS) // 6
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = [key for step in steps for key in _keys(order.batch(step))]
        assert len(seen) == len(set(seen)) == order.steps_per_epoch * 6
        assert all(0 <= row < ROWS[shard] for shard, row in seen)


def test_a_divisor_of_the_samples_sees_them_all() -> None:
    order = _order(batch_size=8)
    assert sum(ROWS) % 8 == 0
    seen = {key for step in range(order.steps_per_epoch) for key in _keys(order.batch(step))}
    assert seen == {(shard, row) for shard, rows in enumerate(ROWS) for row in range(rows)}


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    order = _order()
    for step in (0, 5, 11):
        parts = [order.part(step, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert _keys(np.concatenate(parts)) == _keys(order.batch(step))


def test_any_step_can_be_had_without_those_before_it() -> None:
    walked = _order()
    before = [_keys(walked.batch(step)) for step in range(20)]
    assert _keys(_order().batch(17)) == before[17]


def test_epochs_and_seeds_differ() -> None:
    order = _order()
    first = _keys(order.batch(0))
    assert first != _keys(order.batch(order.steps_per_epoch))
    assert first != _keys(_order(seed=4).batch(0))


def test_a_window_keeps_reading_local() -> None:
    order = SampleOrder([100] * 40, batch_size=50, seed=0, window_shards=4)
    for step in range(8):
        assert len({shard for shard, _ in _keys(order.batch(step))}) <= 4


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 100, but there are only 48"):
        _order(batch_size=100)

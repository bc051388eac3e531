"""Which samples a step sees where they have weights, against points on a line."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.order import SampleOrder

ROWS = [7, 0, 13, 5, 9, 11, 3]
BATCH = 6


class _Given:
    def __init__(self, rows: list[NDArray[np.float64]]):
        self._weights = rows
        self.totals = np.array([weights.sum() for weights in rows])

    def rows(self, shard: int) -> NDArray[np.float64]:
        return self._weights[shard]


def _weights(seed: int = 0) -> _Given:
    """Of very unequal samples, of which some are never seen, nor any of the shard of five."""
    generator = np.random.default_rng(seed)
    rows = [generator.exponential(size=count) ** 2 * (generator.random(count) > 0.2) for count in ROWS]
    rows[3][:] = 0
    return _Given(rows)


def _order(given: _Given | None, **changes: int) -> SampleOrder:
    return SampleOrder(ROWS, **{"batch_size": BATCH, "seed": 3, "window_shards": 3, **changes}, weights=given)


def _epoch(order: SampleOrder, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return [(int(shard), int(row)) for step in steps for shard, row in order.batch(step)]


def test_without_weights_the_order_is_what_it_always_was() -> None:
    order = _order(None)
    seen = np.concatenate([order.batch(step) for step in range(20)])
    assert hashlib.sha256(seen.astype("<i8").tobytes()).hexdigest()[:16] == "09ceba9a99c28143"


@pytest.mark.parametrize("seed", range(5))
def test_each_sample_comes_as_often_as_points_fall_on_it(seed: int) -> None:
    given = _weights(seed)
    order = _order(given, batch_size=8, seed=seed)
    assert sum(ROWS) % 8 == 0, "no draw is dropped"
    for epoch in range(4):
        shards = np.random.default_rng([seed, 0, epoch]).permutation(len(ROWS))
        samples = [(int(shard), row) for shard in shards for row in range(ROWS[shard])]
        ends = np.cumsum(np.concatenate([given.rows(shard) for shard in shards]))
        points = (np.arange(sum(ROWS)) + np.random.default_rng([seed, 2, epoch]).random()) / sum(ROWS) * ends[-1]
        expected = Counter(samples[place] for place in np.searchsorted(ends, points, side="right"))
        assert Counter(_epoch(order, epoch)) == expected
        for shard, row in samples:
            share = given.rows(shard)[row] / ends[-1] * sum(ROWS)
            assert np.floor(share) <= expected[shard, row] <= np.ceil(share)


def test_over_epochs_shares_are_those_of_the_weights() -> None:
    given, epochs = _weights(), 400
    order = _order(given, batch_size=8)
    seen = Counter(key for epoch in range(epochs) for key in _epoch(order, epoch))
    for shard, rows in enumerate(ROWS):
        for row in range(rows):
            share = given.rows(shard)[row] / given.totals.sum() * sum(ROWS)
            # Of an epoch a draw more or less, so far less spread than of independent draws.
            assert seen[shard, row] / epochs == pytest.approx(share, abs=0.11)
            assert share or not seen[shard, row]


def test_equal_weights_show_each_sample_once() -> None:
    order = _order(_Given([np.full(count, 0.3) for count in ROWS]), batch_size=8)
    for epoch in range(3):
        assert sorted(_epoch(order, epoch)) == [
            (shard, row) for shard, count in enumerate(ROWS) for row in range(count)
        ]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_and_resumed_runs_see_the_same(ranks: int) -> None:
    walked = _order(_weights())
    for step in range(20):
        anew, whole = _order(_weights()), walked.batch(step)
        parts = np.concatenate([anew.part(step, rank=rank, ranks=ranks) for rank in range(ranks)])
        assert len(whole) == BATCH and np.array_equal(parts, whole)
    assert not np.array_equal(_order(_weights(), seed=4).batch(0), walked.batch(0))
    assert not np.array_equal(walked.batch(walked.steps_per_epoch), walked.batch(0))


def test_what_comes_often_is_spread_over_its_window() -> None:
    rows = [np.ones(100) for _ in range(8)]
    # 20 draws of 808 each, in windows of 4 shards, so one in 20 or so.
    rows[0][0] = rows[5][7] = 20.0
    order = SampleOrder([100] * 8, batch_size=16, seed=0, window_shards=4, weights=_Given(rows))
    for step in range(order.steps_per_epoch * 3):
        assert Counter(map(tuple, order.batch(step).tolist())).most_common(1)[0][1] <= 2
    seen = Counter(_epoch(order, 0))
    assert seen[0, 0] in (18, 19, 20) and seen[5, 7] in (18, 19, 20)


def test_a_window_without_a_draw_is_passed_over() -> None:
    rows = [np.zeros(count) for count in ROWS]
    rows[4][2] = 1.0
    order = _order(_Given(rows), window_shards=1)
    assert set(_epoch(order, 0)) == {(4, 2)} and order.batch(7).shape == (BATCH, 2)

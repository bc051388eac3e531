"""Ways to do the same thing, timed in turns, so that a shared machine slows all of them alike."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 9


def take_turns(ways: dict[str, Callable[[], Any]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each way by round. The order changes: what ran before leaves caches and free memory as it likes."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[name]()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios of two ways within a round."""
    return round(statistics.median(a / b for a, b in zip(times[over], times[under])), 3)

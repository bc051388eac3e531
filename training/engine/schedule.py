"""Learning rates by step: pure functions, so that a resumed run needs nothing but the number of its step."""

import math
from collections.abc import Callable

from training.config import OptimizerConfig

# torch's OneCycleLR: the rate starts at peak / 25 and ends at that / 10,000.
_START, _END = 25.0, 1e4


def schedule_of(config: OptimizerConfig, *, steps: int) -> Callable[[int], float]:
    """Learning rate of the steps 1 to ``steps``."""
    make = one_cycle if config.schedule == "one_cycle" else warmup_cosine
    return make(peak=config.learning_rate, steps=steps, warmup=config.warmup)


def warmup_cosine(*, peak: float, steps: int, warmup: float) -> Callable[[int], float]:
    """Learning rate of the steps 1 to ``steps``: linear over the first ``warmup`` share, then a cosine towards zero."""
    warm = round(steps * warmup)

    def rate(step: int) -> float:
        if step <= warm:
            return peak * step / warm
        return peak * (1 + math.cos(math.pi * (step - 1 - warm) / (steps - warm))) / 2

    return rate


def one_cycle(*, peak: float, steps: int, warmup: float) -> Callable[[int], float]:
    """The rates of torch's OneCycleLR with ``pct_start=warmup``: a cosine up to the peak, one down to nearly zero."""
    turn, last = max(warmup * steps - 1, 0.0), steps - 1

    def rate(step: int) -> float:
        at = step - 1
        if at <= turn and turn > 0:
            return _cosine(peak / _START, peak, at / turn)
        return _cosine(peak, peak / _START / _END, (at - turn) / max(last - turn, 1))

    return rate


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

"""Two averages: of the weights over steps, and of BatchNorm's statistics over ranks."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class WeightAverage:
    """Exponential moving average of tensors that an optimizer steps on, in their own division between ranks.

    ``weights``: float32, stepped on in place: parameters, or the flat parts of them that ZeRO gives a rank. So a step
    gathers nothing. After n steps an average is ``decay * average + (1 - decay) * weight``, with ``decay`` no more than
    ``(1 + n) / (10 + n)``, so that the first steps do not linger (TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, weights: Iterable[Tensor], *, decay: float):
        self.decay, self.steps = decay, 0
        self._weights = [weight.detach() for weight in weights]
        self._averages = [weight.clone() for weight in self._weights]

    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Averages stand where the weights do, to be read or written by whoever knows those by name."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

"""A batch in parts, with the loss of the whole: contrastive losses see every pair, memory holds one part (GradCache).

First all parts go through the model without gradient, which gives the features of the whole batch. The losses and their
gradient with respect to the features follow. Then each part goes through the model again, with gradient, and is handed
the gradient of its own features (Gao et al., arXiv 2101.06983). So 1 x B and k x B/k give equal gradients. The price is
one more forward pass. BatchNorm normalizes each part by itself: there, and only there, the number of parts matters.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class MicroBatches:
    """Runs ``model`` on a batch in ``parts``; called in place of the model, then :meth:`replay` in place of backward.

    ``model`` returns a named tuple of tensors, per row or scalars, or None. Random numbers (dropout) are drawn again as
    they were the first time.
    """

    def __init__(self, model: Callable[..., Any], *, module: nn.Module, parts: int):
        self._model, self._module, self._parts = model, module, parts
        self._inputs: list[tuple[Tensor, ...]] = []
        self._random: list[Any] = []
        self._features: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Features of the whole batch, as leaves that gather a gradient."""
        self._inputs = list(zip(*(tensor.chunk(self._parts) for tensor in inputs), strict=True))
        self._random, found = [], []
        with torch.no_grad(), _untouched_statistics(self._module):
            for part in self._inputs:
                self._random.append(_random_state())
                found.append(self._model(*part))
        joined = [_join(list(column)) for column in zip(*found)]
        self._features = type(found[0])(*joined)
        return self._features

    def replay(self, backward: Callable[[Tensor], None]) -> None:
        """After the loss went back to the features: call ``backward`` with one scalar for each part."""
        splits = [_gradients(feature, self._parts) for feature in self._features]
        for number, part in enumerate(self._inputs):
            _set_random_state(self._random[number])
            features = self._model(*part)
            backward(
                torch.stack(
                    [
                        (feature.float() * split[number]).sum()
                        for feature, split in zip(features, splits)
                        if feature is not None and split
                    ]
                ).sum()
            )


def _join(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    whole = torch.cat(parts) if parts[0].ndim else parts[0]
    return whole.detach().clone().requires_grad_()


def _gradients(feature: Any, parts: int) -> list[Tensor]:
    """The gradient of each part's rows; a scalar's is shared out evenly. Empty if nothing depends on the feature."""
    if feature is None or feature.grad is None:
        return []
    return list(feature.grad.chunk(parts)) if feature.ndim else [feature.grad / parts] * parts


@contextlib.contextmanager
def _untouched_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm uses the batch's statistics, but its running ones stay: the second pass counts, not both."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [
        (norm.momentum, norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None)
        for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            if batches is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(batches)


def _random_state() -> Any:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])

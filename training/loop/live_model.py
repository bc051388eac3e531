"""The student in training, as losses and evaluation want a model: pieces of a batch, images or texts alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LiveModel:
    """Forward passes of an engine's module, of at most ``rows`` rows each.

    ZeRO 3 brings a module's weights together when the whole of it is called, on all ranks at once: so images go with
    one text, texts with one image, and ranks that have as many rows call as often. ``image``, ``text``: those, one row.
    """

    def __init__(self, model: Callable[[Tensor, Tensor], Any], *, rows: int, image: Tensor, text: Tensor):
        self._model, self._rows, self._image, self._text = model, rows, image, text

    def __call__(self, image: Tensor, text: Tensor) -> Any:
        """Features of a batch: as the model's own, which must treat rows one by one."""
        found = [self._model(*part) for part in zip(image.split(self._rows), text.split(self._rows))]
        return type(found[0])(*(_joined(column) for column in zip(*found)))

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """``(N, E)``, normalized, float32."""
        return torch.cat([self._model(part, self._text).image for part in images.split(self._rows)])

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        """``(N, E)``, normalized, float32."""
        return torch.cat([self._model(self._image, part).text for part in tokens.split(self._rows)])


def _joined(pieces: tuple[Any, ...]) -> Any:
    """Rows one after another; a scale is the same for all of them."""
    first = pieces[0]
    return torch.cat(pieces) if isinstance(first, Tensor) and first.ndim else first

"""What the loader hands to the task."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """This rank's part of a global batch. ``image``: ``(B, H, W, 3)`` uint8, a quarter of what the model is given.

    Teacher embeddings and labels are there where a term needs them.
    """

    image_ids: list[int]
    image: Tensor
    text: Tensor
    teacher_image: Tensor | None = None
    teacher_text: Tensor | None = None
    cluster_ids: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch where a GPU fetches it by itself; ``DataLoader`` calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        fields = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        changed: dict[str, Any] = {name: change(value) for name, value in fields if isinstance(value, Tensor)}
        return dataclasses.replace(self, **changed)

"""A model's own preprocessing in two parts: pixels by PIL, one by one; scale and shift, for a whole batch."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import TeacherError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A model's own preprocessing in two parts: pixels by PIL, one by one; scale and shift, for a whole batch.

    ``to_image`` maps a PIL image to an RGB one of the model's size (``height``, ``width``); ``mean`` and ``std`` are
    those of each channel, of values from 0 to 1.
    """

    to_image: Callable[[Any], Any]
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, preprocess: Any) -> "Preprocessing":
        """Divide what open_clip returns for evaluation; :class:`TeacherError` if it has another form."""
        from PIL import Image
        from torchvision.transforms import Compose, Normalize, ToTensor

        steps = list(getattr(preprocess, "transforms", ()))
        if len(steps) < 2 or not isinstance(steps[-1], Normalize) or not isinstance(steps[-2], ToTensor):
            raise TeacherError(f"preprocessing must end with ToTensor and Normalize, got {preprocess}")
        to_image = Compose(steps[:-2])
        width, height = to_image(Image.new("RGB", (8, 8))).size
        mean, std = (tuple(float(value) for value in values) for values in (steps[-1].mean, steps[-1].std))
        return cls(to_image=to_image, height=height, width=width, mean=mean, std=std)

    def pixels(self, image: Any) -> "np.ndarray":
        """A PIL image as (H, W, 3) uint8 of the model's size."""
        import numpy as np

        return np.asarray(self.to_image(image))

    def normalize(self, pixels: "Tensor") -> "Tensor":
        """(B, H, W, 3) uint8 to (B, 3, H, W) float32, channels last in memory: as torchvision's ToTensor and Normalize,
        bit for bit, but for a whole batch and on its device."""
        import torch

        mean, std = (_on_device(values, pixels.device) for values in (self.mean, self.std))
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)


@functools.lru_cache(maxsize=8)
def _on_device(values: tuple[float, ...], device: Any) -> "Tensor":
    """(1, 3, 1, 1); copied once, since a GPU would wait for a copy from ordinary memory in every batch."""
    import torch

    # Training may use what inference asked for first.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).reshape(1, 3, 1, 1)


def decode_image(data: bytes) -> Any:
    """An RGB PIL image, decoded whole. Raises ``OSError``, ``SyntaxError`` or ``ValueError`` for damaged data."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")

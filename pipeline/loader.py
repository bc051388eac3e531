"""From a tar of images and captions to batches for the teacher: read from front to back, decoded in threads, ahead.

Threads, not processes: reading, JPEG decoding and resizing all let go of Python's lock, pixels need no copy to another
process, and a batch is filled in place. What is left for the device is arithmetic: pixels come as 8-bit integers, a
quarter of the bytes of the floats that the model is given, in the channels-last order that they were decoded in.
"""

import collections
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline.config import AugmentationConfig
from pipeline.errors import ShardError, TeacherError
from pipeline.tars import TarReader
from pipeline.views import View, apply_view, draw_view

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Batches that are read and decoded ahead of the model, and samples that one thread decodes at a time.
_AHEAD, _PART = 3, 16

Row = dict[str, Any]
"""A row of a tar's index (``schema.TAR_INDEX``)."""

_Part = tuple[Any, list[View]]
# Tokens and views of the samples that one thread has decoded.


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

    def normalise(self, pixels: "Tensor") -> "Tensor":
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples in the order that they were asked for.

    ``pixels``: (B, H, W, 3) uint8 of the images as they are, with ``tokens`` (B, L) of their captions; or (B * V, H, W,
    3) of the ``views`` of each, without captions.
    """

    sample_ids: list[int]
    pixels: "Tensor"
    tokens: "Tensor | None"
    views: list[View]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """How samples become batches of about ``batch_size`` images. ``views``: augmentations of each image that are wanted
    in its place; 0 for the image as it is, with its caption. ``pinned``: put pixels where a GPU fetches them by itself.
    """

    preprocessing: Preprocessing
    tokenizer: Callable[[list[str]], Any]
    batch_size: int
    threads: int
    augmentation: AugmentationConfig
    views: int = 0
    pinned: bool = False

    def batches(self, reader: TarReader, rows: Sequence[Row]) -> Iterator[Batch]:
        """Batches of the samples of a tar that ``rows`` name, in that order.

        Raises :class:`ShardError` that names tar and key of a sample that cannot be decoded.
        """
        size = max(self.batch_size // max(self.views, 1), 1)
        pieces = iter([rows[start : start + size] for start in range(0, len(rows), size)])
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            waiting: collections.deque[_Coming] = collections.deque()
            try:
                while True:
                    for piece in itertools.islice(pieces, _AHEAD - len(waiting)):
                        waiting.append(self._start(pool, reader, piece))
                    if not waiting:
                        return
                    yield waiting.popleft().result()
            finally:
                # A consumer that stopped, or a sample that failed, must not wait for all that was asked for.
                pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, reader: TarReader, rows: Sequence[Row]) -> "_Coming":
        import torch

        shape = (len(rows) * max(self.views, 1), self.preprocessing.height, self.preprocessing.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        # Started before the parts, so a part never waits for something that has no thread.
        samples = pool.submit(reader.samples, [(row["offset"], row["size"]) for row in rows])
        parts = [
            pool.submit(self._decode, reader, rows[start : start + _PART], samples, start, pixels)
            for start in range(0, len(rows), _PART)
        ]
        return _Coming(rows, pixels, parts)

    def _decode(
        self, reader: TarReader, rows: Sequence[Row], samples: Future[list[dict[str, bytes]]], start: int, pixels: Any
    ) -> _Part:
        """Fill the pixels of some samples, the first of which is number ``start`` of its batch."""
        target, captions, views = pixels.numpy(), list[str](), list[View]()
        for place, row in enumerate(rows, start):
            members = samples.result()[place]
            try:
                image = decode_image(members["jpg"])
                captions.append(members["txt"].decode())
            except (OSError, SyntaxError, ValueError, KeyError) as error:
                raise ShardError(
                    f"{reader.path}, key {row['key']}: no readable jpg and txt member: {error!r}"
                ) from error
            drawn = self._draw(row["sample_id"], image)
            views += drawn
            shown = [apply_view(image, view) for view in drawn] if self.views else [image]
            for number, picture in enumerate(shown, place * len(shown)):
                target[number] = self.preprocessing.pixels(picture)
        return (None if self.views else self.tokenizer(captions)), views

    def _draw(self, sample_id: int, image: Any) -> list[View]:
        size = {"width": image.width, "height": image.height}
        return [
            draw_view(self.augmentation, sample_id=sample_id, number=number, **size) for number in range(self.views)
        ]


class _Coming:
    """A batch that threads are at work on."""

    def __init__(self, rows: Sequence[Row], pixels: Any, parts: list[Future[_Part]]):
        self._rows, self._pixels, self._parts = rows, pixels, parts

    def result(self) -> Batch:
        import torch

        parts = [part.result() for part in self._parts]
        return Batch(
            sample_ids=[row["sample_id"] for row in self._rows],
            pixels=self._pixels,
            tokens=None if parts[0][0] is None else torch.cat([tokens for tokens, _ in parts]),
            views=[view for _, views in parts for view in views],
        )


def decode_image(data: bytes) -> Any:
    """An RGB PIL image, decoded whole. Raises ``OSError``, ``SyntaxError`` or ``ValueError`` for damaged data."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")

"""From a tar of images and captions to batches for the teacher: read from front to back, decoded in threads, ahead.

Threads, not processes: reading, JPEG decoding and resizing all let go of Python's lock, pixels need no copy to another
process, and a batch is filled in place. What is left for the device is arithmetic: pixels come as 8-bit integers, a
quarter of the bytes of the floats that the model is given, in the channels-last order that they were decoded in.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.clip.preprocessing import Preprocessing, decode_image
from pipeline.clip.views import AugmentationConfig, View, apply_view, draw_view
from pipeline.core.errors import ShardError
from pipeline.core.remote_tar import image_of
from pipeline.core.tars import Place, TarReader

if TYPE_CHECKING:
    from torch import Tensor

# Batches that are read and decoded ahead of the model, and samples that one thread decodes at a time.
_AHEAD, _PART = 3, 16

Row = dict[str, Any]
"""A row of a tar's index (``schema.TAR_INDEX``), and in ``captions`` the ``(sample_id, caption)`` of each caption of
the image, if captions are to be embedded."""


class Unreadable(NamedTuple):
    """An image that was adopted, which nobody has decoded before, and cannot be; it had so many captions."""

    image_id: int
    captions: int
    error: str


class _Part(NamedTuple):
    """What one thread has made of its samples; places in the batch of those that are not readable."""

    tokens: Any
    views: list[View]
    unreadable: dict[int, Unreadable]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """B images in the order that they were asked for, with C captions.

    ``pixels``: (B, H, W, 3) uint8 of the images as they are, with ``tokens`` (C, L) of all their captions, image after
    image, and for each of these its ``sample_ids`` and in ``image_of`` which of the B it belongs to; or (B * V, H, W,
    3) of the ``views`` of each, without captions. ``unreadable`` are not among the B.
    """

    image_ids: list[int]
    pixels: "Tensor"
    tokens: "Tensor | None"
    sample_ids: list[int]
    image_of: list[int]
    views: list[View]
    unreadable: "list[Unreadable]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """How samples become batches of about ``batch_size`` images. ``views``: augmentations of each image that are wanted
    in its place; 0 for the image as it is, with its captions. ``pinned``: put pixels where a GPU fetches them itself.
    """

    preprocessing: Preprocessing
    tokenizer: Callable[[list[str]], Any]
    batch_size: int
    threads: int
    augmentation: AugmentationConfig
    views: int = 0
    pinned: bool = False

    def batches(self, reader: TarReader | None, rows: Sequence[Row]) -> Iterator[Batch]:
        """Batches of the samples of a tar that ``rows`` name, in that order.

        Raises :class:`ShardError` that names tar and key of a sample that cannot be decoded.
        """
        if reader is None or not rows:
            return
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
        samples = pool.submit(reader.samples, [Place.of(row) for row in rows])
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
        unreadable: dict[int, Unreadable] = {}
        for place, row in enumerate(rows, start):
            members = samples.result()[place]
            try:
                image = decode_image(image_of(members))
            except (ShardError, OSError, SyntaxError, ValueError) as error:
                where = f"{reader.path}, key {row['key']}: no readable image: {error!r}"
                if row["tar"] is None:
                    raise ShardError(where) from error
                unreadable[place] = Unreadable(row["image_id"], len(row["captions"]), where)
                continue
            captions += [caption for _, caption in row["captions"]]
            drawn = self._draw(row["image_id"], image)
            views += drawn
            shown = [apply_view(image, view) for view in drawn] if self.views else [image]
            for number, picture in enumerate(shown, place * len(shown)):
                target[number] = self.preprocessing.pixels(picture)
        tokens = self.tokenizer(captions) if captions and not self.views else None
        return _Part(tokens, views, unreadable)

    def _draw(self, image_id: int, image: Any) -> list[View]:
        size = {"width": image.width, "height": image.height}
        return [draw_view(self.augmentation, image_id=image_id, number=number, **size) for number in range(self.views)]


class _Coming:
    """A batch that threads are at work on."""

    def __init__(self, rows: Sequence[Row], pixels: Any, parts: list[Future[_Part]]):
        self._rows, self._pixels, self._parts = rows, pixels, parts

    def result(self) -> Batch:
        import torch

        parts = [part.result() for part in self._parts]
        unreadable = {place: why for part in parts for place, why in part.unreadable.items()}
        places = [place for place in range(len(self._rows)) if place not in unreadable]
        rows = [self._rows[place] for place in places]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return Batch(
            image_ids=[row["image_id"] for row in rows],
            pixels=self._pixels if not unreadable else self._pixels[self._of_places(places)],
            tokens=torch.cat(tokens) if tokens else None,
            sample_ids=[sample_id for row in rows for sample_id, _ in row["captions"]],
            image_of=[place for place, row in enumerate(rows) for _ in row["captions"]],
            views=[view for part in parts for view in part.views],
            unreadable=list(unreadable.values()),
        )

    def _of_places(self, places: list[int]) -> list[int]:
        """Rows of the pixels: of an image, or of its views."""
        each = len(self._pixels) // len(self._rows)
        return [place * each + number for place in places for number in range(each)]

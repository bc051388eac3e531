"""Loader and model together: the samples of a tar in, batches of embeddings out, with the time that was waited."""

import collections
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.clip.model import WEIGHTS_FILE, load_clip
from pipeline.core.devices import gpu_memory_returned
from pipeline.core.errors import TeacherError
from pipeline.core.files import file_digest
from pipeline.core.tars import TarReader
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.encoder import Encoder, Moment, min_cosine, require_cosine
from pipeline.embeddings.loader import Batch, Loader, Row

log = logging.getLogger(__name__)

# Samples that a lower precision is compared on with fp32, in each process.
_COMPARED = 32

Embeddings = tuple[np.ndarray, np.ndarray | None]


class Embedder:
    """A teacher that stays loaded in its process, and how it is fed."""

    def __init__(self, folder: Path, config: EmbeddingsConfig):
        self._folder, self._config = folder, config
        clip = load_clip(folder, device=config.device, precision=config.precision)
        self.encoder = Encoder(clip, compile_images=config.compile)
        self._compared = config.precision == "fp32"

    @classmethod
    def open(cls, folder: Path, weights_hash: str, config: EmbeddingsConfig) -> "Embedder":
        """The embedder of this process: the one before, if it is the same. Raises :class:`TeacherError`."""
        return _open(folder, weights_hash, config.model_dump_json())

    def run(self, reader: TarReader | None, rows: Sequence[Row], *, views: int = 0) -> "Run":
        """Embed the samples that ``rows`` name, in that order: images and captions, or ``views`` of each image.

        Raises :class:`EmbeddingError` if the precision turns embeddings too far from those of fp32.
        """
        config = self._config
        loader = Loader(
            preprocessing=self.encoder.preprocessing,
            tokenizer=self.encoder.tokenizer,
            batch_size=config.batch_size,
            threads=config.decode_threads,
            views=views,
            augmentation=config.augmentation,
            pinned=self.encoder.device.type == "cuda",
        )
        if not self._compared and rows:
            self._require_precision(list(loader.batches(reader, rows[:_COMPARED])))
        return Run(self.encoder, loader.batches(reader, rows), config.batch_size)

    @gpu_memory_returned()
    def _require_precision(self, batches: Sequence[Batch]) -> None:
        config = self._config
        exact = Encoder(load_clip(self._folder, device=config.device))
        # At the stage's own batch size, since a compiled model is made for one.
        cosines = [min_cosine(self.encoder, exact, batch, batch_size=config.batch_size) for batch in batches]
        # numpy's, which does not pass over a NaN.
        found, count = float(np.min(cosines)), sum(len(batch.image_ids) for batch in batches)
        log.info(f"least cosine of {config.precision} to fp32 is {found:.6f} on {count} samples")
        require_cosine(found, precision=config.precision, device=self.encoder.device)
        self._compared = True


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """While the block lasts torch uses so many threads, whatever machine and engine this is: sums depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def teacher_kept() -> Iterator[None]:
    """The teacher that is opened in this process stays loaded until the block ends, the outermost one if several do.

    A process that only works on shards keeps it until it ends, without this.
    """
    _KEPT.append(None)
    try:
        # Last of all, since memory is given back only when nothing refers to the teacher.
        with gpu_memory_returned():
            try:
                yield
            finally:
                if len(_KEPT) == 1:
                    _open.cache_clear()
    finally:
        _KEPT.pop()


# One entry for each block that keeps the teacher.
_KEPT: list[None] = []


@functools.lru_cache(maxsize=1)
def _open(folder: Path, weights_hash: str, config: str) -> Embedder:
    # The hash is there, too, so that another teacher in the same folder is not mistaken for the one before.
    weights = folder / WEIGHTS_FILE
    if weights.is_file() and file_digest(weights) != weights_hash:
        raise TeacherError(f"{weights}: damaged or replaced, not the weights with hash {weights_hash}", damaged=weights)
    return Embedder(folder, EmbeddingsConfig.model_validate_json(config))


class Run:
    """Iterates over batches with their float16 embeddings: ``(B * max(V, 1), D)`` of images or views, and ``(C, D)`` of
    captions where there are any. ``seconds``, and those of them in which the model had nothing to do but wait for the
    loader, ``waited_s``, are final once the iteration has ended."""

    def __init__(self, encoder: Encoder, batches: Iterable[Batch], batch_size: int):
        self._encoder, self._batches, self._batch_size = encoder, batches, batch_size
        self.seconds = self.waited_s = 0.0
        self._last: Moment | None = None

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, np.ndarray | None]]:
        started = time.monotonic()
        # While a GPU is at one batch, the one before it is handed on.
        under_way: collections.deque[_UnderWay] = collections.deque()
        for batch, waited_s in _timed(iter(self._batches)):
            under_way.append(self._start(batch, waited_s))
            if len(under_way) > 1:
                yield self._result(under_way.popleft())
        while under_way:
            yield self._result(under_way.popleft())
        self.seconds = time.monotonic() - started

    def _start(self, batch: Batch, waited_s: float) -> "_UnderWay":
        began = self._encoder.moment()
        images, texts = self._encoder.batch(batch, batch_size=self._batch_size)
        ended = self._encoder.moment()
        return _UnderWay(batch, self._encoder.fetch(images, texts), waited_s, began, ended)

    def _result(self, done: "_UnderWay") -> tuple[Batch, np.ndarray, np.ndarray | None]:
        arrived = done.arrived()
        # A GPU that is still at the batch before does not wait for the loader, though this process does.
        idle_s = done.waited_s if self._last is None else done.began.since(self._last)
        self.waited_s += min(done.waited_s, idle_s)
        self._last = done.ended
        return done.batch, *arrived


class _UnderWay(NamedTuple):
    """A batch that the device was given, and the seconds for which the loader was waited for before."""

    batch: Batch
    arrived: Callable[[], Embeddings]
    waited_s: float
    began: Moment
    ended: Moment


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that it took to come."""
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.monotonic() - asked

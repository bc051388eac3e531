"""Loader and model together: the samples of a tar in, batches of embeddings out, with the time that was waited."""

import collections
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import EmbeddingsConfig
from pipeline.encoder import Encoder, least_cosine, require_cosine
from pipeline.loader import Batch, Loader, Row
from pipeline.tars import TarReader
from pipeline.teacher import load_clip

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

    def warm_up(self) -> None:
        """Embed one batch of nothing, for timings: first passes choose kernels and allocate memory."""
        import torch

        size = (self._config.batch_size, self.encoder.preprocessing.height, self.encoder.preprocessing.width, 3)
        self.encoder.images(torch.zeros(size, dtype=torch.uint8), batch_size=self._config.batch_size)
        self.encoder.texts(self.encoder.tokenizer(["a caption"] * self._config.batch_size))

    def run(self, reader: TarReader, rows: Sequence[Row], *, views: int = 0) -> "Run":
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
        if not self._compared:
            for batch in loader.batches(reader, rows[:_COMPARED]):
                self._require_precision(batch)
        return Run(self.encoder, loader.batches(reader, rows), config.batch_size)

    def _require_precision(self, batch: Batch) -> None:
        exact = Encoder(load_clip(self._folder, device=self._config.device))
        found = least_cosine(self.encoder, exact, batch)
        log.info(f"least cosine of {self._config.precision} to fp32 is {found:.6f} on {len(batch.sample_ids)} samples")
        require_cosine(found, precision=self._config.precision, device=self.encoder.device)
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


@functools.lru_cache(maxsize=1)
def _open(folder: Path, weights_hash: str, config: str) -> Embedder:
    # The hash is there so that another teacher in the same folder is not mistaken for the one before.
    del weights_hash
    return Embedder(folder, EmbeddingsConfig.model_validate_json(config))


class Run:
    """Iterates over batches with their float16 embeddings: ``(B * max(V, 1), D)`` of images or views, and ``(B, D)`` of
    captions where there are any. ``seconds`` and ``waited_s`` are final once the iteration has ended."""

    def __init__(self, encoder: Encoder, batches: Iterable[Batch], batch_size: int):
        self._encoder, self._batches, self._batch_size = encoder, batches, batch_size
        self.seconds = self.waited_s = 0.0

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, np.ndarray | None]]:
        started = time.monotonic()
        # While a GPU is at one batch, the one before it is handed on.
        under_way: collections.deque[tuple[Batch, Callable[[], Embeddings]]] = collections.deque()
        for batch in self._timed(iter(self._batches)):
            under_way.append((batch, self._encoder.fetch(*self._encoder.batch(batch, batch_size=self._batch_size))))
            if len(under_way) > 1:
                before, arrived = under_way.popleft()
                yield before, *arrived()
        for last, arrived in under_way:
            yield last, *arrived()
        self.seconds = time.monotonic() - started

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited_s += time.monotonic() - asked
            if batch is None:
                return
            yield batch

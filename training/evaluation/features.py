"""Features of a CLIP model on an evaluation set: float32 on the CPU, L2-normalized, in the order of the samples."""

import functools
import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.clip.model import LoadedClip
from pipeline.core.errors import EmbeddingError, ShardError
from pipeline.core.progress import Progress
from training.evaluation.datasets import ImageMember, Split

log = logging.getLogger(__name__)

# Batches that are decoded while the model works on one: enough to hide uneven decoding, and little memory.
_BATCHES_AHEAD = 3


def image_features(clip: LoadedClip, split: Split, *, batch_size: int, decode_threads: int | None = None) -> Tensor:
    """``(N, D)`` features of a split's images; ``decode_threads`` None takes one per core.

    Raises :class:`ShardError` for an image that cannot be decoded, naming its tar and key, and
    :class:`EmbeddingError` for features that are not finite.
    """
    dtype = next(clip.model.visual.parameters()).dtype
    features = []
    with Progress(log, f"evaluation, {split.name}", total=len(split), unit="images") as progress:
        threads = decode_threads or os.cpu_count() or 1
        for pixels in decoded(split.images, functools.partial(_preprocessed, clip), batch_size, threads):
            with torch.inference_mode():
                batch = clip.model.encode_image(pixels.to(clip.device, dtype))
            features.append(_unit(batch))
            progress.add(len(pixels))
    return _finite(torch.cat(features), f"images of {split.name}")


def text_features(clip: LoadedClip, texts: Sequence[str], *, batch_size: int) -> Tensor:
    """``(M, D)`` features of texts, one row a text; :class:`EmbeddingError` if they are not finite."""
    features = []
    for start in range(0, len(texts), batch_size):
        tokens = clip.tokenizer(list(texts[start : start + batch_size]))
        with torch.inference_mode():
            features.append(_unit(clip.model.encode_text(tokens.to(clip.device))))
    return _finite(torch.cat(features), "texts")


def _unit(features: Tensor) -> Tensor:
    # Normalized in float32, whatever the model computed in: half precision is off by up to 1e-3.
    return F.normalize(features.float(), dim=-1).cpu()


def _finite(features: Tensor, what: str) -> Tensor:
    """Refuse a broken model: any score made from such features would be a number without a meaning."""
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise EmbeddingError(f"{bad} of {len(features)} features of {what} are not finite")
    return features


def decoded(
    images: Sequence[ImageMember], decode: Callable[[bytes], Tensor], batch_size: int, threads: int
) -> Iterator[Tensor]:
    """What ``decode`` makes of each image, stacked batch by batch; threads decode ahead of the model.

    Raises :class:`ShardError` for an image that cannot be decoded, naming its tar and key.
    """
    waiting: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                # One task per thread, not per image: tasks this small would spend their time on hand-over.
                share = -(-len(batch) // threads)
                waiting.append(
                    [pool.submit(_decode, decode, batch[at : at + share]) for at in range(0, len(batch), share)]
                )
                if len(waiting) > _BATCHES_AHEAD:
                    yield torch.cat([part.result() for part in waiting.popleft()])
            while waiting:
                yield torch.cat([part.result() for part in waiting.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(decode: Callable[[bytes], Tensor], images: Sequence[ImageMember]) -> Tensor:
    return torch.stack([_pixels(decode, image) for image in images])


def _preprocessed(clip: LoadedClip, data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return clip.preprocess(image)


def _pixels(decode: Callable[[bytes], Tensor], member: ImageMember) -> Tensor:
    try:
        return decode(member.read())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ShardError(f"{member.tar}, key {member.key}: no readable image: {error!r}") from error

"""A CLIP on its device: pixels and tokens in, unit vectors out; as fast as is safe."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.clip.model import LoadedClip, compile_tower
from pipeline.clip.precision import full_precision
from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import EmbeddingError
from pipeline.embeddings.loader import Batch

if TYPE_CHECKING:
    from torch import Tensor

MIN_COSINE = 0.999
"""Bound of what a lower precision may turn an embedding by."""

# Captions are encoded in parts of about equal length, so that few are as long as the longest of the batch. A GPU is
# given more at a time: on an H100 256 captions in four parts took 1.75 times as long as all of them at full length
# (ViT-bigG-14), since each part asks for all layers anew.
_TEXT_PARTS, _GPU_TEXTS, _MOST_TEXTS = 4, 512, 1024


class Encoder:
    """Embeds images and captions with an open_clip model.

    ``precision`` is open_clip's: weights of matrix products and convolutions are cast once, norms and sums stay in
    float32, which is what autocast computes without casting the weights anew in each pass. Attention is torch's fused
    one. Convolutions get their pixels channels-last, the order they are decoded in. No global flag of torch changes
    what comes out (:func:`full_precision`). ``compile_images`` compiles the image tower for passes of one batch size.
    """

    def __init__(self, clip: LoadedClip, *, compile_images: bool = False):
        import torch

        self.device, self.embed_dim = torch.device(clip.device), clip.embed_dim
        self.preprocessing, self.tokenizer = Preprocessing.of(clip.preprocess), clip.tokenizer
        self._model = clip.model
        self._dtype = clip.input_dtype or torch.float32
        self._model.visual.to(memory_format=torch.channels_last)
        self._compiled = compile_images
        if compile_images:
            compile_tower(clip.model.visual)
        self._causal = _CausalText.of(clip.model)

    def images(self, pixels: "Tensor", *, batch_size: int) -> "Tensor":
        """``(N, H, W, 3)`` uint8 to ``(N, D)`` float32 unit vectors, ``batch_size`` images a pass."""
        import torch

        with torch.inference_mode(), full_precision():
            return torch.cat([self._images(part, batch_size) for part in pixels.split(batch_size)])

    def texts(self, tokens: "Tensor") -> "Tensor":
        """``(N, L)`` token ids, on the host, to ``(N, D)`` float32 unit vectors."""
        import torch

        with torch.inference_mode(), full_precision():
            if self._causal is None:
                return _unit(self._model.encode_text(self._sent(tokens), normalize=True))
            lengths = self._causal.lengths(tokens)
            order = torch.argsort(lengths, stable=True)
            # Each part is cut on the device, so that one copy brings them all.
            size = max(-(-len(tokens) // _TEXT_PARTS), _GPU_TEXTS if self.device.type == "cuda" else 1)
            # One image may have any number of captions.
            size = min(size, _MOST_TEXTS)
            parts = self._sent(tokens[order]).split(size)
            longest = [int(part.max()) for part in lengths[order].split(len(parts[0]))]
            found = [_unit(self._causal.encode(part[:, :length])) for part, length in zip(parts, longest)]
            return torch.cat(found)[self._sent(torch.argsort(order))]

    def batch(self, batch: Batch, *, batch_size: int) -> tuple["Tensor", "Tensor | None"]:
        """Embeddings of its images or views, and of its captions if it has any."""
        texts = None if batch.tokens is None else self.texts(batch.tokens)
        return self.images(batch.pixels, batch_size=batch_size), texts

    def fetch(self, images: "Tensor", texts: "Tensor | None") -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Start to bring embeddings to the host as float16; the call that is returned waits for them."""
        # torch takes pinned memory for a copy from a GPU that is not waited for, so the next batch need not be over.
        first, second = (
            found if found is None else found.half().to("cpu", non_blocking=True) for found in (images, texts)
        )
        arrived = self.moment()

        def wait() -> tuple[np.ndarray, np.ndarray | None]:
            arrived.wait()
            assert first is not None
            return first.numpy(), None if second is None else second.numpy()

        return wait

    def moment(self) -> "Moment":
        """When the device is done with all that it was asked for until now."""
        return Moment(self.device)

    def _images(self, pixels: "Tensor", batch_size: int) -> "Tensor":
        import torch

        pixels, count = self._sent(pixels), len(pixels)
        if self._compiled and count < batch_size:
            # A compiled model is made for one shape, and one order in memory.
            pixels = torch.cat([pixels, pixels.new_zeros(batch_size - count, *pixels.shape[1:])])
        images = self.preprocessing.normalize(pixels).to(self._dtype)
        return _unit(self._model.encode_image(images, normalize=True)[:count])

    def _sent(self, values: "Tensor") -> "Tensor":
        """On the device, without waiting for it: a copy to a GPU from memory that is not pinned waits for its work."""
        if self.device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)


class Moment:
    """A point in the work of a device. A CPU has done what it was asked for, a GPU gets there later."""

    def __init__(self, device: Any):
        import torch

        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        self._clock = time.monotonic()
        if self._event:
            # Of this very device: without a stream it would be a moment of the process's current one.
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Return when the device is there."""
        if self._event:
            self._event.synchronize()

    def since(self, earlier: "Moment") -> float:
        """Seconds between two moments of one device that are both over."""
        if self._event:
            return float(earlier._event.elapsed_time(self._event)) / 1e3  # type: ignore[union-attr]
        return self._clock - earlier._clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CausalText:
    """A text tower whose token sees those before it alone, and whose embedding is that of the last token.

    What follows the last token changes nothing, so captions are cut to the longest of their part of a batch.
    """

    model: Any
    prefix: str
    eos: int | None

    @classmethod
    def of(cls, model: Any) -> "_CausalText | None":
        """None for other towers, which are given captions at full length."""
        prefix, tower = ("text.", model.text) if hasattr(model, "text") else ("", model)
        pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
        mask, position = getattr(tower, "attn_mask", None), getattr(tower, "positional_embedding", None)
        if mask is None or position is None or mask.shape[0] != position.shape[0]:
            return None
        if pool not in ("argmax", "eos") or getattr(tower, "cls_emb", None) is not None:
            return None
        eos = getattr(tower, "eos_id", getattr(tower, "text_eos_id", None)) if pool == "eos" else None
        return cls(model=model, prefix=prefix, eos=eos)

    def lengths(self, tokens: "Tensor") -> "Tensor":
        """Tokens of each caption up to the one that is read, as open_clip finds it."""
        last = tokens if self.eos is None else (tokens == self.eos).int()
        return last.argmax(dim=-1) + 1

    def encode(self, tokens: "Tensor") -> "Tensor":
        import torch

        length = tokens.shape[1]
        tower = self.model.text if self.prefix else self.model
        shortened = {
            f"{self.prefix}positional_embedding": tower.positional_embedding[:length],
            f"{self.prefix}attn_mask": tower.attn_mask[:length, :length],
        }
        # Neither tensor is shared, and to look for ones that are takes longer than a layer.
        found = torch.func.functional_call(self.model, shortened, (None, tokens), tie_weights=False)
        return found["text_features"] if isinstance(found, dict) else found[1]


def min_cosine(encoder: Encoder, exact: Encoder, batch: Batch, *, batch_size: int) -> float:
    """Of the embeddings of a batch, images and captions, by two encoders; NaN if one of them has any."""
    import torch

    pairs = zip(encoder.batch(batch, batch_size=batch_size), exact.batch(batch, batch_size=batch_size))
    cosines = [(mine * theirs).sum(dim=-1) for mine, theirs in pairs if mine is not None and theirs is not None]
    # Not Python's min, which passes over a NaN.
    return float(torch.cat(cosines).min())


def require_cosine(found: float, *, precision: str, device: Any) -> None:
    """Raise :class:`EmbeddingError` for a precision that turns embeddings by more than the bound."""
    if not found >= MIN_COSINE:
        raise EmbeddingError(
            f"embeddings.precision {precision} on {device}: least cosine to fp32 is {found:.6f} on a sample of the "
            f"images and captions, at least {MIN_COSINE} is wanted; use fp32"
        )


def _unit(vectors: "Tensor") -> "Tensor":
    """Normalize in float32: a half-precision model's own normalization is off by up to 1e-3."""
    vectors = vectors.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)

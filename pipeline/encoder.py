"""A CLIP on its device: pixels and tokens in, unit vectors out; as fast as is safe."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import EmbeddingError
from pipeline.loader import Batch, Preprocessing
from pipeline.teacher import LoadedClip

if TYPE_CHECKING:
    from torch import Tensor

LEAST_COSINE = 0.999
"""Bound of what a lower precision may turn an embedding by."""

# Captions are encoded in parts of about equal length, so that few are as long as the longest of the batch.
_TEXT_PARTS = 4


class Encoder:
    """Embeds images and captions with an open_clip model.

    ``precision`` is open_clip's: weights of matrix products and convolutions are cast once, norms and sums stay in
    float32, which is what autocast computes without casting the weights anew in each pass. Attention is torch's fused
    one. Convolutions get their pixels channels-last, the order they are decoded in.
    """

    def __init__(self, clip: LoadedClip, *, compile_images: bool = False):
        import torch

        self.device, self.embed_dim = torch.device(clip.device), clip.embed_dim
        self.preprocessing, self.tokenizer = Preprocessing.of(clip.preprocess), clip.tokenizer
        self._model = clip.model
        self._dtype = clip.input_dtype or torch.float32
        self._model.visual.to(memory_format=torch.channels_last)
        self._compiled = compile_images
        self._encode_image = torch.compile(clip.model.encode_image) if compile_images else clip.model.encode_image
        self._causal = _CausalText.of(clip.model)

    def images(self, pixels: "Tensor", *, batch_size: int) -> "Tensor":
        """``(N, H, W, 3)`` uint8 to ``(N, D)`` float32 unit vectors, ``batch_size`` images a pass."""
        import torch

        with torch.inference_mode():
            return torch.cat([self._images(part, batch_size) for part in pixels.split(batch_size)])

    def texts(self, tokens: "Tensor") -> "Tensor":
        """``(N, L)`` token ids to ``(N, D)`` float32 unit vectors."""
        import torch

        with torch.inference_mode():
            if self._causal is None:
                return _unit(self._model.encode_text(tokens.to(self.device, non_blocking=True), normalize=True))
            lengths = self._causal.lengths(tokens)
            found = torch.empty(len(tokens), self.embed_dim, device=self.device)
            for part in torch.argsort(lengths, stable=True).split(-(-len(tokens) // _TEXT_PARTS)):
                shortened = tokens[part, : int(lengths[part].max())].to(self.device, non_blocking=True)
                found[part.to(self.device)] = _unit(self._causal.encode(shortened))
            return found

    def batch(self, batch: Batch, *, batch_size: int) -> tuple["Tensor", "Tensor | None"]:
        """Embeddings of its images or views, and of its captions if it has any."""
        texts = None if batch.tokens is None else self.texts(batch.tokens)
        return self.images(batch.pixels, batch_size=batch_size), texts

    def fetch(self, images: "Tensor", texts: "Tensor | None") -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Start to bring embeddings to the host as float16; the call that is returned waits for them."""
        import torch

        # Into pinned memory where there is a GPU, whose next batch need not be over for it.
        first, second = (
            found if found is None else found.half().to("cpu", non_blocking=True) for found in (images, texts)
        )
        arrived = torch.cuda.Event() if self.device.type == "cuda" else None
        if arrived:
            arrived.record()

        def wait() -> tuple[np.ndarray, np.ndarray | None]:
            if arrived:
                arrived.synchronize()
            assert first is not None
            return first.numpy(), None if second is None else second.numpy()

        return wait

    def _images(self, pixels: "Tensor", batch_size: int) -> "Tensor":
        import torch

        images = self.preprocessing.normalise(pixels.to(self.device, non_blocking=True)).to(self._dtype)
        count = len(images)
        if self._compiled and count < batch_size:
            # A compiled model is made for one shape.
            images = torch.cat([images, images.new_zeros(batch_size - count, *images.shape[1:])])
        return _unit(self._encode_image(images, normalize=True)[:count])


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
        found = torch.func.functional_call(self.model, shortened, (None, tokens))
        return found["text_features"] if isinstance(found, dict) else found[1]


def least_cosine(encoder: Encoder, exact: Encoder, batch: Batch) -> float:
    """Of the embeddings of a batch, images and captions, by two encoders; NaN if one of them has any."""
    import torch

    pairs = zip(encoder.batch(batch, batch_size=64), exact.batch(batch, batch_size=64))
    cosines = [(mine * theirs).sum(dim=-1) for mine, theirs in pairs if mine is not None and theirs is not None]
    # Not Python's min, which passes over a NaN.
    return float(torch.cat(cosines).min())


def require_cosine(found: float, *, precision: str, device: Any) -> None:
    """Raise :class:`EmbeddingError` for a precision that turns embeddings by more than the bound."""
    if not found >= LEAST_COSINE:
        raise EmbeddingError(
            f"embeddings.precision {precision} on {device}: least cosine to fp32 is {found:.6f} on a sample of the "
            f"images and captions, at least {LEAST_COSINE} is wanted; use fp32"
        )


def _unit(vectors: "Tensor") -> "Tensor":
    """Normalise in float32: a half-precision model's own normalisation is off by up to 1e-3."""
    vectors = vectors.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)

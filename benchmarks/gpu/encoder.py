"""ViT-bigG-14 with random weights: images and captions a second, share of the peak, and the real loader before it.

The peak is that of a large bf16 product in the same process. What is compared takes turns.
"""

import dataclasses
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.drawn import attention_as_products, drawn_clip, flop_an_image
from benchmarks.gpu.parts import Setting
from benchmarks.gpu.photographs import captions, rows_of, write_photographs
from benchmarks.gpu.timing import forget_peak, operations, peak, peak_gb, seconds, take_turns, wait

_TARGET_IMAGES_PER_S, _TARGET_SHARE, _TARGET_STALL = 400, 0.4, 0.05
# With fewer seconds left no other piece is begun: a part that is ended by its limit counts as failed.
_LONGEST_S = 22.0
_THREADS, _SHOWN = 16, 8
_MIN_COSINE = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """``batches``: the first is the one that everything is measured at. ``source``: pixels of a JPEG's side."""

    model: str
    layers: int | None
    batches: tuple[int, ...]
    images: int
    source: int
    rounds: int


_WHOLE = _Sizes(model="ViT-bigG-14", layers=None, batches=(256, 512, 128, 64), images=14 * 256, source=256, rounds=5)
_TINY = _Sizes(model="ViT-S-32-alt", layers=1, batches=(2,), images=4, source=64, rounds=1)


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    import torch

    if not setting.cuda:
        # A CPU's compiler takes longer than all the rest.
        torch.compiler.set_stance("force_eager")
    bench = _Bench(_TINY if setting.tiny else _WHOLE, setting)
    yield bench.head()
    first, *others = bench.sizes.batches
    pieces: list[Callable[[], dict[str, Any]]] = [
        functools.partial(bench.compiled, first),
        bench.captions,
        bench.with_loader,
        functools.partial(bench.tower, first),
        bench.precision,
        functools.partial(bench.kernels, "eager"),
        functools.partial(bench.kernels, "compiled"),
        bench.variants,
        *(functools.partial(bench.tower, batch) for batch in others),
        *(functools.partial(bench.compiled, batch) for batch in others),
    ]
    for number, piece in enumerate(pieces):
        if setting.left_s < _LONGEST_S:
            yield {"what": "out of time", "pieces_left": len(pieces) - number}
            return
        yield _guarded(piece, setting.device)


class _Bench:
    """The encoders, and what is known of them so far."""

    def __init__(self, sizes: _Sizes, setting: Setting):
        import torch

        from pipeline.embeddings.encoder import Encoder

        self.sizes, self.setting, self.device = sizes, setting, setting.device
        begun = time.monotonic()
        self.eager = Encoder(self._drawn("bf16"))
        wait(self.device)
        self.drawn_s = time.monotonic() - begun
        self._compiled: Encoder | None = None
        self.fast = self.eager
        self.flop = flop_an_image(self.eager)
        self.peak = peak(self.device, torch.bfloat16)

    def head(self) -> dict[str, Any]:
        return {
            "what": "bf16 product",
            "peak_tflops": round(self.peak / 1e12, 1),
            "gflop_an_image": round(self.flop / 1e9, 1),
            "weights_drawn_s": round(self.drawn_s, 1),
        }

    def tower(self, batch: int) -> dict[str, Any]:
        """The image tower as it is, on pixels that lie on the device."""
        pixels = self._pixels(batch)
        forget_peak(self.device)
        taken = seconds(lambda: self.eager.images(pixels, batch_size=batch), self.device, rounds=self.sizes.rounds)
        return self._tower_row("eager", batch, taken)

    def compiled(self, batch: int) -> dict[str, Any]:
        """The same compiled; both ways take turns."""
        from pipeline.embeddings.encoder import Encoder

        pixels = self._pixels(batch)
        # A second model: one cannot be compiled and not.
        self._compiled = self._compiled or Encoder(self._drawn("bf16"), compile_images=True)
        ways = {
            name: functools.partial(encoder.images, pixels, batch_size=batch)
            for name, encoder in (("eager", self.eager), ("compiled", self._compiled))
        }
        wait(self.device)
        begun = time.monotonic()
        found = ways["compiled"]()
        wait(self.device)
        compile_s = time.monotonic() - begun
        cosine = float((found * ways["eager"]()).sum(-1).min())
        forget_peak(self.device)
        taken = take_turns(ways, self.device, rounds=self.sizes.rounds)
        if batch == self.sizes.batches[0] and taken["compiled"] < taken["eager"]:
            self.fast = self._compiled
        return self._tower_row("compiled", batch, taken["compiled"]) | {
            "eager_over_compiled": round(taken["eager"] / taken["compiled"], 3),
            "first_pass_s": round(compile_s, 1),
            "min_cosine_to_eager": round(cosine, 6),
        }

    def with_loader(self) -> dict[str, Any]:
        """JPEGs and captions in a tar to embeddings on the host: what the stage does, but for the Parquet file."""
        from pipeline.clip.views import AugmentationConfig
        from pipeline.core.tars import TarReader
        from pipeline.embeddings.embedder import Run
        from pipeline.embeddings.loader import Loader

        tar, batch = self.setting.folder / "00000.tar", self.sizes.batches[0]
        write_photographs(tar, count=self.sizes.images, pixels=self.sizes.source)
        loader = Loader(
            preprocessing=self.fast.preprocessing,
            tokenizer=self.fast.tokenizer,
            batch_size=batch,
            threads=min(_THREADS, len(os.sched_getaffinity(0))),
            augmentation=AugmentationConfig(),
            pinned=self.device == "cuda",
        )
        rows = rows_of(tar)
        for wanted in (rows[:batch], rows):
            run = Run(self.fast, loader.batches(TarReader(tar), wanted), batch)
            count = sum(len(images) for _, images, _ in run)
        stall, rate = run.waited_s / run.seconds, count / run.seconds
        return {
            "what": "tar to embeddings, captions too",
            "way": "eager" if self.fast is self.eager else "compiled",
            "batch_size": batch,
            "decode_threads": loader.threads,
            "source_pixels": self.sizes.source,
            "images_per_s": round(rate, 1),
            "share_of_peak": round(rate * self.flop / self.peak, 3),
            "loader_stall": round(stall, 4),
            "ok": count == self.sizes.images and (stall < _TARGET_STALL or self.setting.tiny),
        }

    def captions(self) -> dict[str, Any]:
        """The text tower, captions of 3 to 30 words; and at full length, as without cutting."""
        import torch

        batch = self.sizes.batches[0]
        tokens = self.eager.tokenizer(captions(batch))
        forget_peak(self.device)

        def whole() -> None:
            with torch.inference_mode():
                self.eager._model.encode_text(tokens.to(self.device), normalize=True)

        taken = take_turns(
            {"cut": lambda: self.eager.texts(tokens), "whole": whole}, self.device, rounds=self.sizes.rounds
        )
        return {
            "what": "text tower",
            "batch_size": batch,
            "captions_per_s": round(batch / taken["cut"], 1),
            "captions_per_s_at_full_length": round(batch / taken["whole"], 1),
            "peak_gb": peak_gb(self.device),
        }

    def precision(self) -> dict[str, Any]:
        """bf16 against fp32 without TF32, and what fp32 costs."""
        from pipeline.embeddings.encoder import Encoder, min_cosine
        from pipeline.embeddings.loader import Batch

        forget_peak(self.device)
        count = self.sizes.batches[-1]
        exact, pixels = Encoder(self._drawn("fp32")), self._pixels(count)
        tokens = exact.tokenizer(captions(count))
        batch = Batch(
            image_ids=list(range(count)),
            pixels=pixels,
            tokens=tokens,
            sample_ids=list(range(count)),
            image_of=list(range(count)),
            views=[],
        )
        cosine = min_cosine(self.eager, exact, batch, batch_size=count)
        taken = seconds(lambda: exact.images(pixels, batch_size=count), self.device, rounds=1)
        return {
            "what": "image tower in fp32",
            "batch_size": count,
            "images_per_s": round(count / taken, 1),
            "peak_gb": peak_gb(self.device),
            "min_cosine_of_bf16": round(cosine, 6),
            "ok": cosine >= _MIN_COSINE,
        }

    def kernels(self, way: str) -> dict[str, Any]:
        """Where a pass of the image tower spends its time: the operations that take most of it, in milliseconds."""
        encoder = self.eager if way == "eager" or self._compiled is None else self._compiled
        batch = self.sizes.batches[0]
        pixels = self._pixels(batch)
        found = operations(lambda: encoder.images(pixels, batch_size=batch), self.device, most=_SHOWN)
        return {"what": f"operations, {way}", "batch_size": batch, **found}

    def variants(self) -> dict[str, Any]:
        """Choices of torch: attention as one operation of its own or as products around the fused kernel; and its own
        flags, which allow TF32 in the first convolution and sums in half precision."""
        import torch

        batch = self.sizes.batches[0]
        pixels, eager = self._pixels(batch), self.eager

        def products() -> None:
            with attention_as_products():
                eager.images(pixels, batch_size=batch)

        def own_flags() -> None:
            with torch.inference_mode():
                eager._model.encode_image(eager.preprocessing.normalize(pixels).bfloat16(), normalize=True)

        ways: dict[str, Callable[[], object]] = {
            "as_it_is": lambda: eager.images(pixels, batch_size=batch),
            "attention_as_products": products,
            "flags_of_torch": own_flags,
        }
        taken = take_turns(ways, self.device, rounds=min(self.sizes.rounds, 3))
        rates = {f"images_per_s_{name}": round(batch / found, 1) for name, found in taken.items()}
        return {"what": "image tower, eager", "batch_size": batch, **rates}

    def _tower_row(self, way: str, batch: int, taken: float) -> dict[str, Any]:
        rate = batch / taken
        share = rate * self.flop / self.peak
        row = {
            "what": "image tower",
            "way": way,
            "batch_size": batch,
            "images_per_s": round(rate, 1),
            "tflops": round(rate * self.flop / 1e12, 1),
            "share_of_peak": round(share, 3),
            "peak_gb": peak_gb(self.device),
        }
        if way == "compiled" and batch == self.sizes.batches[0] and not self.setting.tiny:
            row["ok"] = share >= _TARGET_SHARE and rate >= _TARGET_IMAGES_PER_S
        return row

    def _pixels(self, batch: int) -> Any:
        import torch

        size = (batch, self.eager.preprocessing.height, self.eager.preprocessing.width, 3)
        return torch.randint(0, 256, size, dtype=torch.uint8, device=self.device)

    def _drawn(self, precision: str) -> Any:
        return drawn_clip(self.sizes.model, device=self.device, precision=precision, layers=self.sizes.layers)


def _guarded(piece: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    """A row of a piece, or its error: one that needs too much memory or cannot be compiled costs only itself."""
    import torch

    try:
        return piece()
    except torch.cuda.OutOfMemoryError as error:
        row = {"what": "out of memory", "error": str(error)[:300]}
    except Exception as error:  # noqa: BLE001 - the row and the log have it
        traceback.print_exc()
        row = {"what": "failed", "error": f"{type(error).__name__}: {str(error)[:1000]}", "ok": False}
    forget_peak(device)
    return row

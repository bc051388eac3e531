"""The host's side: JPEGs to pixels and views, by one thread and by many, and how pixels reach the device."""

import concurrent.futures
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.parts import NeedsCuda, Setting
from benchmarks.gpu.photographs import photograph
from benchmarks.gpu.timing import seconds, take_turns

_SIZE, _DIFFERENT = 224, 64
_THREADS = 16


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    host = _Host(setting)
    for source in (256, 512):
        yield host.decoding(source)
    for piece in (copies, pinning):
        try:
            yield piece(setting)
        except NeedsCuda as needed:
            yield {"what": str(needed), "needs": "CUDA"}
    yield normalizing(setting)
    for source in (256, 512):
        yield host.augmenting(source)


class _Host:
    """Decoding and augmenting, for a while each, on as many threads as asked for."""

    def __init__(self, setting: Setting):
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        from pipeline.clip.preprocessing import Preprocessing

        # CLIP's own, as open_clip builds it.
        resize = Resize(_SIZE, interpolation=InterpolationMode.BICUBIC)
        scale = Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
        self._preprocessing = Preprocessing.of(Compose([resize, CenterCrop(_SIZE), ToTensor(), scale]))
        self._for_s = 0.1 if setting.tiny else 0.7
        self._threads = min(_THREADS, len(os.sched_getaffinity(0)))
        self._different = 4 if setting.tiny else _DIFFERENT

    def decoding(self, source: int) -> dict[str, Any]:
        """JPEG to the model's pixels."""
        from pipeline.clip.preprocessing import decode_image

        images = self._images(source)

        def one(number: int) -> None:
            self._preprocessing.pixels(decode_image(images[number % len(images)]))

        return self._row("decode and preprocess", source, one)

    def augmenting(self, source: int) -> dict[str, Any]:
        """A decoded image to a view of it, before preprocessing."""
        from pipeline.clip.preprocessing import decode_image
        from pipeline.clip.views import AugmentationConfig, apply_view, draw_view

        # Cut, mirror and colors: all that a view may ask for.
        config = AugmentationConfig(brightness=0.4, contrast=0.4, saturation=0.4)
        images = [decode_image(data) for data in self._images(source)]

        def one(number: int) -> None:
            view = draw_view(config, image_id=number, number=0, width=source, height=source)
            apply_view(images[number % len(images)], view)

        return self._row("draw and apply a view", source, one)

    def _images(self, source: int) -> list[bytes]:
        return [photograph(number, pixels=source) for number in range(self._different)]

    def _row(self, what: str, source: int, one: Callable[[int], None]) -> dict[str, Any]:
        alone, together = (self._rate(one, threads) for threads in (1, self._threads))
        return {
            "what": what,
            "source_pixels": source,
            "samples_per_s_of_one_thread": round(alone, 1),
            "threads": self._threads,
            "samples_per_s": round(together, 1),
            "of_linear": round(together / alone / self._threads, 2),
        }

    def _rate(self, one: Callable[[int], None], threads: int) -> float:
        """Samples a second, until the time is over."""
        one(0)
        ends = time.perf_counter() + self._for_s

        def work(first: int) -> int:
            for number in itertools.count(first):
                if time.perf_counter() > ends:
                    return number - first
                one(number)
            raise AssertionError

        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            done = sum(pool.map(work, range(threads)))
        return done / (time.perf_counter() - started)


def copies(setting: Setting) -> dict[str, Any]:
    """A batch of pixels to the device, from pinned and from ordinary memory; and back."""
    import torch

    if not setting.cuda:
        raise NeedsCuda("copies to the device")
    pinned = torch.zeros(_batch(setting), dtype=torch.uint8, pin_memory=True)
    ordinary = torch.zeros(_batch(setting), dtype=torch.uint8)
    there = torch.zeros_like(ordinary, device="cuda")
    ways: dict[str, Callable[[], object]] = {
        "pinned": lambda: there.copy_(pinned, non_blocking=True),
        "ordinary": lambda: there.copy_(ordinary, non_blocking=True),
        "back": lambda: pinned.copy_(there, non_blocking=True),
    }
    taken = take_turns(ways, setting.device, rounds=10)
    size = pinned.numel() / 1e9
    return {
        "what": "a batch of pixels",
        "megabytes": round(1e3 * size, 1),
        **{f"{name}_gb_per_s": round(size / found, 2) for name, found in taken.items()},
        "pinned_over_ordinary": round(taken["ordinary"] / taken["pinned"], 2),
    }


def pinning(setting: Setting) -> dict[str, Any]:
    """What a pinned batch costs to allocate: the first time, and when torch has one of its size at hand."""
    import torch

    if not setting.cuda:
        raise NeedsCuda("pinned memory")
    # No smaller block may be of use for it.
    size = (4, *_batch(setting))
    started = time.perf_counter()
    first = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    first_s = time.perf_counter() - started
    # A copy under way keeps a block from being used again, as in the loader.
    torch.zeros(1, device="cuda").copy_(first.flatten()[:1], non_blocking=True)
    del first
    torch.cuda.synchronize()
    again_s = seconds(lambda: torch.empty(size, dtype=torch.uint8, pin_memory=True), setting.device)
    return {"what": "pinned memory", "first_ms": round(1e3 * first_s, 2), "again_ms": round(1e3 * again_s, 3)}


def normalizing(setting: Setting) -> dict[str, Any]:
    """8-bit pixels on the device to what the model is given; bytes that are read and written, counted once each."""
    import torch

    from pipeline.clip.preprocessing import Preprocessing

    preprocessing = Preprocessing(
        to_image=lambda image: image, height=_SIZE, width=_SIZE, mean=(0.5,) * 3, std=(0.3,) * 3
    )
    pixels = torch.zeros(_batch(setting), dtype=torch.uint8, device=setting.device)
    taken = seconds(
        lambda: preprocessing.normalize(pixels).to(torch.bfloat16), setting.device, rounds=1 if setting.tiny else 10
    )
    return {
        "what": "normalize on the device",
        "batch_ms": round(1e3 * taken, 3),
        "gb_per_s": round(pixels.numel() * (1 + 2) / 1e9 / taken, 2),
    }


def _batch(setting: Setting) -> tuple[int, int, int, int]:
    return (2 if setting.tiny else 256, _SIZE, _SIZE, 3)

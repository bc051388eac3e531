"""What there is to measure, most worthy first."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a part runs: ``device`` is ``cuda`` or ``cpu``; ``tiny`` sizes show that it works and measure nothing;
    ``folder`` is its own, empty, and removed afterwards; ``ends`` on Python's monotonic clock, when it is ended."""

    device: str
    tiny: bool
    folder: Path
    ends: float

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until it is ended."""
        return self.ends - time.monotonic()


class NeedsCuda(Exception):
    """Raised by a part, or by a piece of one, that cannot run on a CPU."""


class Measure(Protocol):
    """``measure`` of a part's module: yields rows as soon as each is known. A row with ``ok`` false is a failure."""

    def __call__(self, setting: Setting) -> Iterator[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """``module`` of this package, ``limit_s`` seconds at most."""

    module: str
    limit_s: int
    what: str


PARTS = {
    "kernel": Part(module="kernel", limit_s=75, what="candidates of the pair search against float64, on hard data"),
    "rates": Part(module="rates", limit_s=75, what="TFLOP/s of the block kernel by tile and width"),
    "forest": Part(module="forest", limit_s=90, what="a million vectors in memory to their forest"),
    "encoder": Part(module="encoder", limit_s=120, what="ViT-bigG-14: images a second, share of peak, loader stall"),
    "distillation": Part(module="distillation", limit_s=90, what="a step with cached against online teacher"),
    "centroids": Part(module="centroids", limit_s=45, what="the cluster term at a million centroids: time and memory"),
    "engine": Part(module="engine", limit_s=75, what="DeepSpeed against bare torch, resume, fp16, NCCL"),
    "kmeans": Part(module="kmeans", limit_s=45, what="k-means: assignment and Lloyd steps"),
    "decode": Part(module="decode", limit_s=30, what="decoding and augmenting on the host, copies to the device"),
    "tests": Part(module="tests", limit_s=90, what="pytest -m gpu"),
}

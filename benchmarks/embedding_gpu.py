"""The embedding stage on one GPU: images a second, share of the peak, loader stall; ViT-bigG-14 with random weights.

Images and captions are those of a synthetic root, embedded by the stage itself, tars to Parquet, at each precision and
batch size. Work is counted by torch's FLOP counter on one batch; the peak is that of a large matrix product of the same
type, measured in the same process. Without a GPU there is nothing to measure, and no row; ``measure(model=..., ...)``
with a small model runs anywhere, which is what its test does.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.embedding import make_root

_BATCHES, _SHARDS = 24, 2


def measure(
    model: str = "ViT-bigG-14",
    *,
    device: str = "cuda",
    precisions: tuple[str, ...] = ("bf16", "fp16"),
    batch_sizes: tuple[int, ...] = (128, 256, 512),
    compiled: tuple[bool, ...] = (False, True),
    samples: int | None = None,
    layers: int | None = None,
    threads: int = 12,
    pixels: int = 256,
) -> list[dict[str, Any]]:
    import torch

    from pipeline.config import EmbeddingsConfig

    if device == "cuda" and not torch.cuda.is_available():
        return []
    count = samples or _BATCHES * max(batch_sizes)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        make_root(root, model=model, samples=count, pixels=pixels, shards=_SHARDS, layers=layers)
        flop = _flop(root, device)
        for precision in precisions:
            peak = _peak(device, precision)
            for batch_size in batch_sizes:
                for compile_images in compiled:
                    config = EmbeddingsConfig(
                        precision=precision,  # type: ignore[arg-type]
                        batch_size=batch_size,
                        compile=compile_images,
                        device=device,
                        decode_threads=threads,
                    )
                    rows.append({"model": model, "gpu": _name(device), **_row(root, config, peak, flop)})
    return rows


def _row(root: Path, config: Any, peak: float, flop: float) -> dict[str, Any]:
    from pipeline.config import ComputeConfig
    from pipeline.embed import embed_images, loader_stall
    from pipeline.inference import Embedder
    from pipeline.teacher import read_info

    embedder = Embedder.open(root / "teacher", read_info(root).weights_hash, config)
    embedder.warm_up()
    # The first run also compares the precision with fp32.
    for _ in range(2):
        shutil.rmtree(root / ".marks" / "teacher_embeddings", ignore_errors=True)
        started = time.perf_counter()
        result = embed_images(root, config, ComputeConfig())
        seconds = time.perf_counter() - started
    rate = result.rows / seconds
    return {
        "precision": config.precision,
        "batch_size": config.batch_size,
        "compile": config.compile,
        "images_per_second": round(rate, 1),
        "peak_tflops_measured": round(peak / 1e12, 1),
        "share_of_peak": round(rate * flop / peak, 3),
        "loader_stall": round(loader_stall(result), 4),
    }


def _flop(root: Path, device: str) -> float:
    """Floating-point operations of one image; captions come on top, so the share of the peak is a lower bound."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.encoder import Encoder
    from pipeline.teacher import load_clip

    encoder = Encoder(load_clip(root / "teacher", device=device))
    pixels = torch.zeros((1, encoder.preprocessing.height, encoder.preprocessing.width, 3), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        encoder.images(pixels, batch_size=1)
    return float(counter.get_total_flops())


def _peak(device: str, precision: str, size: int = 8192) -> float:
    """Operations a second of a matrix product, the best of several."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = size if device == "cuda" else 512
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(5):
            product = matrix @ matrix
        float(product[0, 0])
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * size**3 / best


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "none"

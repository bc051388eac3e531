"""The pair search on a GPU: the fused kernel's rate, a million rows end to end, and recall once more.

On a machine without a GPU it runs small and on the CPU, which shows that the script works and measures nothing.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import pieces, write
from pipeline.neighbours import near_duplicate_forest
from pipeline.prefix import Bound, left_columns, principal_axes, right_columns
from pipeline.tiles import plain_candidates

_WIDTH = 1280
_DISTANCE = 0.447
_REPEATS = 20


def measure() -> list[dict[str, Any]]:
    """Rates of the kernel by precision and prefix, then the searches."""
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    where = torch.cuda.get_device_name() if cuda else "cpu"
    sample = torch.from_numpy(next(pieces(16_384 if cuda else 2048, _WIDTH, "1/i", duplicates=0.3)))
    axes = principal_axes(sample[:4096], _WIDTH)
    rows: list[dict[str, Any]] = [
        {"device": where, **_kernel(sample, axes, precision, prefix, device)}
        for precision in ("bfloat16", "tfloat32", "float32")
        for prefix in (57, 121, 505, _WIDTH)
    ]
    return rows + [
        {"device": where, **_search(count, device)} for count in ((100_000, 1_000_000) if cuda else (4_000,))
    ]


def _kernel(sample: torch.Tensor, axes: torch.Tensor, precision: Any, prefix: int, device: str) -> dict[str, Any]:
    """Multiply-adds counted twice, over the time of candidates of a whole block, positions included."""
    bound = Bound(prefix=prefix, precision=precision, max_distance=_DISTANCE, tensor_cores=device == "cuda")
    left = left_columns(sample, axes, bound).to(device)
    right = right_columns(left, bound)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tfloat32"
    picks = {"plain": plain_candidates}
    if device == "cuda":
        from pipeline.fused import fused_candidates

        picks["fused"] = fused_candidates
    found: dict[str, Any] = {"precision": precision, "columns": bound.columns}
    for name, pick in picks.items():
        seconds = []
        for _ in range(_REPEATS if device == "cuda" else 2):
            started = time.perf_counter()
            pick(left, right, bound.least_score, False)
            seconds.append(time.perf_counter() - started)
        operations = 2 * len(left) ** 2 * bound.columns
        found[f"{name}_tflops"] = round(operations / min(seconds) / 1e12, 2)
    return found


def _search(count: int, device: str) -> dict[str, Any]:
    """Seconds in all, and whether the forest is the one that float32 on the CPU finds (where that is affordable)."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "e.parquet", pieces(count, _WIDTH, "1/i", duplicates=0.3))
        started = time.perf_counter()
        report = near_duplicate_forest(path, Path(folder) / "f.parquet", max_distance=_DISTANCE, device=device)
        seconds = time.perf_counter() - started
        result: dict[str, Any] = {"rows": count, "edges": report.edges, "prefix": report.prefix, "seconds": seconds}
        if count <= 100_000:
            near_duplicate_forest(
                path, Path(folder) / "cpu.parquet", max_distance=_DISTANCE, device="cpu", precision="float32"
            )
            result["equal_to_cpu"] = (Path(folder) / "f.parquet").read_bytes() == (
                Path(folder) / "cpu.parquet"
            ).read_bytes()
        return result

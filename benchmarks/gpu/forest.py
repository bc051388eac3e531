"""Vectors in a host's memory to their near-duplicate forest: seconds in all and where they go, and the CPU's answer."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.timing import wait
from pipeline.graph.boruvka import join
from pipeline.neighbors import gpu_kernels as kernels
from pipeline.neighbors import gpu_tile as device_search
from pipeline.neighbors.cost import calibrate
from pipeline.neighbors.gpu_tile import Span, on_host, search_spans, to_device
from pipeline.neighbors.pack import mapped
from pipeline.neighbors.tile import TILE_ROWS
from pipeline.neighbors.workspace import tile_ranges

_WIDTH, _DISTANCE = 1280, 0.447


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    if setting.tiny:
        vectors = make_vectors(120, 64, setting.device)
        yield {"rows": len(vectors), **_timed(vectors, setting, span_rows=80)}
    else:
        make_and_search = make_vectors(20_000, _WIDTH, setting.device)
        _timed(make_and_search, setting, span_rows=8192)  # compiles
        million = make_vectors(1_000_000, _WIDTH, setting.device)
        for _ in range(2):
            yield {"rows": len(million), **_timed(million, setting, span_rows=TILE_ROWS["cuda"])}
        yield {"rows": len(million), "what": "shares", **_shares(million, setting)}
        del million
    yield from _against_cpu(setting)
    if not setting.tiny:
        yield from _crowd(setting)
        four = make_vectors(4_000_000, _WIDTH, setting.device)
        yield {"rows": len(four), **_timed(four, setting, span_rows=TILE_ROWS["cuda"])}


def make_vectors(rows: int, width: int, device: str, *, piece: int = 1 << 17) -> np.ndarray:
    """(rows, width) float16 on the host: variance falling as 1/i, three tenths near-copies, 0.1 to 0.4 away."""
    found = np.empty((rows, width), np.float16)
    scale = torch.arange(1, width + 1, device=device) ** -0.5
    generator = torch.Generator(device).manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator, device=device)

    first: torch.Tensor | None = None
    for start in range(0, rows, piece):
        part = torch.nn.functional.normalize(draw(min(piece, rows - start)) * scale, dim=1)
        first = part if first is None else first
        copies = int(len(part) * 0.3)
        pool = part[: len(part) - copies] if start // piece % 2 == 0 else first
        source = pool[torch.randint(len(pool), (copies,), generator=generator, device=device)]
        reach = 0.1 + 0.3 * torch.rand(copies, 1, generator=generator, device=device)
        part[len(part) - copies :] = torch.nn.functional.normalize(source + draw(copies) * reach / width**0.5, dim=1)
        found[start : start + len(part)] = part.half().cpu().numpy()
    return found


def _search(vectors: np.ndarray, setting: Setting, span_rows: int) -> dict[str, Any]:
    """What a search from files does once they are packed, and merging of tiles on the device."""
    rows = np.arange(len(vectors))
    ranges = tile_ranges(0, len(rows), span_rows)
    plan = calibrate(
        mapped(vectors), rows, max_distance=_DISTANCE, prefix=None, device="cuda", pairs=len(rows) ** 2 // 2,
        precision="auto" if setting.cuda else "float32",
    )  # fmt: skip
    device = torch.device(setting.device)
    basis = plan.basis[:, : plan.bound.prefix].to(device)
    numbers = torch.arange(len(rows), device=device)
    spans = {
        span: device_search.Span.of(
            numbers[slice(*span)], to_device(vectors, rows[slice(*span)], device), basis, plan.bound
        )
        for span in sorted({span for tile in ranges for span in tile})
    }
    found = [search_spans(spans[a], spans[b], plan.bound, nodes=len(rows)) for a, b in ranges]
    edges = on_host(device_search.spanning_forest(len(rows), join([part.edges for part in found])))
    return {
        "columns": plan.bound.columns,
        "precision": plan.bound.precision,
        "candidates": sum(part.candidates for part in found),
        "edges": len(edges),
    }


def _timed(vectors: np.ndarray, setting: Setting, span_rows: int) -> dict[str, Any]:
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats()
    wait(setting.device)
    started = time.perf_counter()
    found = _search(vectors, setting, span_rows)
    wait(setting.device)
    memory = torch.cuda.max_memory_allocated() / 1e9 if setting.cuda else 0.0
    return {**found, "seconds": round(time.perf_counter() - started, 3), "gpu_memory_gb": round(memory, 2)}


def _shares(vectors: np.ndarray, setting: Setting) -> dict[str, float]:
    """Seconds of each step, the device waited for after each, so that their sum is more than the whole."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Any) -> Any:
        def call(*values: Any, **options: Any) -> Any:
            wait(setting.device)
            started = time.perf_counter()
            result = work(*values, **options)
            wait(setting.device)
            spent[name] += time.perf_counter() - started
            return result

        return call

    steps = {
        "flags": (kernels, "flag_blocks"),
        "count": (kernels, "count_candidates"),
        "emit": (kernels, "emit_candidates"),
        "verify": (kernels, "squared_distances"),
        "forest": (device_search, "spanning_forest"),
    }
    whole = {name: getattr(*place) for name, place in steps.items()}
    own = {"copy": to_device, "columns": Span.of, "calibrate": calibrate}
    for name, (module, attribute) in steps.items():
        setattr(module, attribute, timed(name, whole[name]))
    globals()["to_device"], globals()["calibrate"] = timed("copy", to_device), timed("calibrate", calibrate)
    device_search.Span.of = timed("columns", Span.of)  # type: ignore[method-assign]
    try:
        started = time.perf_counter()
        _search(vectors, setting, TILE_ROWS["cuda"])
        spent["whole"] = time.perf_counter() - started
    finally:
        for name, (module, attribute) in steps.items():
            setattr(module, attribute, whole[name])
        globals()["to_device"], globals()["calibrate"] = own["copy"], own["calibrate"]
        device_search.Span.of = own["columns"]  # type: ignore[method-assign]
    return {f"{name}_s": round(value, 4) for name, value in spent.items()}


def _against_cpu(setting: Setting) -> Iterator[dict[str, Any]]:
    """The same files through the library, on the GPU and on the CPU."""
    try:
        from benchmarks.data import pieces, write
        from pipeline.neighbors.search import near_duplicate_forest
    except ImportError as error:
        yield {"what": "equal to the CPU", "status": f"needs {error.name}"}
        return
    if not setting.cuda:
        yield {"what": "equal to the CPU", "status": "needs CUDA"}
        return
    rows = 100_000
    path = write(setting.folder / "e.parquet", pieces(rows, _WIDTH, "1/i", duplicates=0.3))
    taken, outputs = {}, []
    for device in ("cuda", "cpu"):
        outputs.append(setting.folder / f"{device}.parquet")
        started = time.perf_counter()
        near_duplicate_forest(path, outputs[-1], max_distance=_DISTANCE, device=device, memory_limit=64 * 10**9)  # type: ignore[arg-type]
        taken[f"{device}_s"] = round(time.perf_counter() - started, 2)
    equal = outputs[0].read_bytes() == outputs[1].read_bytes()
    yield {"what": "equal to the CPU", "rows": rows, **taken, "host_memory_gb": _peak_host(), "ok": equal}


def _crowd(setting: Setting) -> Iterator[dict[str, Any]]:
    """One picture twenty thousand times among a hundred thousand rows: two hundred million near pairs."""
    vectors = make_vectors(100_000, _WIDTH, setting.device)
    rng = np.random.default_rng(0)
    center = rng.normal(size=(1, _WIDTH))
    noise = 0.1 * rng.normal(size=(20_000, _WIDTH)).astype(np.float32) / _WIDTH**0.5
    group = (center / np.linalg.norm(center)).astype(np.float32) + noise
    vectors[rng.choice(len(vectors), len(group), replace=False)] = group / np.linalg.norm(group, axis=1, keepdims=True)
    yield {"what": "a group of 20,000", "rows": len(vectors), **_timed(vectors, setting, span_rows=TILE_ROWS["cuda"])}


def _peak_host() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)

"""TFLOP/s of the kernel that finds blocks with candidates, by tile and width; and what emitting candidates costs."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.timing import peak, seconds
from pipeline.neighbors import gpu_kernels as kernels
from pipeline.neighbors.gpu_kernels import Shape
from pipeline.neighbors.gpu_tile import Span, candidates
from pipeline.neighbors.lower_bound import Bound, Precision, extra_columns

_ROWS = 131_072


def _shapes(precision: Precision, width: int) -> list[Shape]:
    """Shapes that fit a multiprocessor's registers and shared memory (compiled for sm_90 beforehand)."""
    if precision == "float32":
        return [Shape(rows=64, columns=64, depth=32, strip=16, warps=4, stages=2)]
    short, size = 64 if precision == "bfloat16" else 32, 2 if precision == "bfloat16" else 4
    found = [
        Shape(rows=rows, columns=columns, depth=depth, strip=strip, warps=warps, stages=stages)
        for rows, columns, warps in ((128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8), (128, 64, 4))
        for depth in {short, width}
        for stages in (3, 4)
        for strip in (16, 64)
        if depth <= 128 and not (strip == 64 and stages == 4)
    ]
    return [shape for shape in found if (shape.rows + shape.stages * shape.columns) * shape.depth * size < 225_000]


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    device = setting.device
    plan: list[tuple[Precision, int]] = [("bfloat16", 64), ("bfloat16", 128), ("bfloat16", 256), ("bfloat16", 1280)]
    plan += [("tfloat32", 64), ("tfloat32", 128), ("float32", 64)]
    if setting.tiny:
        plan = [("tfloat32", 64), ("float32", 64)]
    ceiling = peak(device, torch.bfloat16)
    yield {"what": "peak of a bf16 product", "tflops": round(ceiling / 1e12, 1)}
    tried = {(precision, width): _shapes(precision, width)[: 1 if setting.tiny else None] for precision, width in plan}
    if setting.cuda:
        _compile_all([(shape, *key) for key, shapes in tried.items() for shape in shapes])
    for (precision, width), shapes in tried.items():
        yield from _rates(precision, width, shapes, setting, ceiling)
    yield from _emitting(setting)


def _rates(
    precision: Precision, width: int, shapes: list[Shape], setting: Setting, ceiling: float
) -> Iterator[dict[str, Any]]:
    rows = 256 if setting.tiny else _ROWS if width < 1024 else _ROWS // 2
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    side = torch.randn(rows, width, device=setting.device).to(dtype)
    operations = 2 * rows**2 * width
    head = {"precision": precision, "width": width, "rows": rows}
    if setting.cuda:
        part = side[: _ROWS // 4]
        alone = seconds(lambda: part @ part.T, setting.device)
        yield {
            **head,
            "what": "torch's product alone, scores written",
            **_tflops(operations * (len(part) / rows) ** 2, alone, ceiling),
        }
    found = []
    for shape in shapes:
        flag = functools.partial(kernels.flag_blocks, side, side, 1e9, precision, same=False, shape=shape)
        try:
            taken = seconds(flag, setting.device, rounds=3 if setting.cuda else 1)
        except (RuntimeError, triton.TritonError) as error:
            # Out of a resource: one shape less, which the report names.
            yield {**head, **dataclasses.asdict(shape), "error": f"{type(error).__name__}: {str(error)[:200]}"}
            continue
        found.append((taken, shape))
    for taken, shape in sorted(found, key=lambda pair: pair[0])[:6]:
        yield {**head, **dataclasses.asdict(shape), **_tflops(operations, taken, ceiling)}


def _tflops(operations: float, taken: float, ceiling: float) -> dict[str, Any]:
    return {"tflops": round(operations / taken / 1e12, 1), "share_of_bf16_peak": round(operations / taken / ceiling, 3)}


def _compile_all(tried: list[tuple[Shape, Precision, int]]) -> None:
    """Compile every shape in processes beside each other; this process then finds them in Triton's cache."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(12, mp_context=context) as pool:
        list(pool.map(_compile, *zip(*tried)))


def _compile(shape: Shape, precision: Precision, width: int) -> None:
    # Enough rows for the strip, which is part of what is compiled.
    side = torch.zeros(
        shape.strip * shape.columns,
        width,
        device="cuda",
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )
    try:
        kernels.flag_blocks(side, side, 1e9, precision, same=False, shape=shape)
    except (RuntimeError, triton.TritonError) as error:
        # It will fail where it is timed, too, and is reported there.
        print(f"{shape}: {type(error).__name__}", flush=True)


def _emitting(setting: Setting) -> Iterator[dict[str, Any]]:
    """Candidates of a square by flags and two more passes over hot blocks, against one pass that emits at once."""
    precision: Precision = "bfloat16" if setting.cuda else "tfloat32"
    rows = 100 if setting.tiny else 65_536
    bound = Bound(prefix=64 - extra_columns(precision), precision=precision, max_distance=0.447, tensor_cores=True)
    basis = torch.eye(bound.prefix, dtype=torch.float64, device=setting.device)
    for groups in (rows // 4,) if setting.tiny else (rows, rows // 4, rows // 64):
        # So many groups of equal directions: the fewer, the more candidates.
        centers = torch.nn.functional.normalize(torch.randn(groups, bound.prefix, device=setting.device), dim=1)
        vectors = centers[torch.randint(groups, (rows,), device=setting.device)].half()
        span = Span.of(torch.arange(rows, device=setting.device), vectors, basis, bound)
        found = _all(span, bound)
        row: dict[str, Any] = {"what": "emitting", "rows": rows, "candidates": found}
        ways = {
            "three_passes": functools.partial(_all, span, bound),
            "one_pass_cumsum": functools.partial(_one_pass, span, bound, True, found),
            "one_pass_atomics": functools.partial(_one_pass, span, bound, False, found),
        }
        row |= {f"{name}_ms": round(1e3 * seconds(way, setting.device), 2) for name, way in ways.items()}
        yield {**row, "ok": all(way() == found for way in ways.values())}


def _all(span: Span, bound: Bound) -> int:
    return sum(len(a) for a, _ in candidates(span, span, bound))


@triton.jit
def _emit_at_once(  # type: ignore[no-untyped-def]
    left, right, found_a, found_b, counter, rows, columns, least, capacity,
    CUMSUM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    m, n = tl.program_id(0), tl.program_id(1)
    if n >= m:
        scores = kernels._scores(left, right, m, n, WIDTH, BLOCK, BLOCK, BLOCK_K, DOT)
        i, j = (m * BLOCK + tl.arange(0, BLOCK))[:, None], (n * BLOCK + tl.arange(0, BLOCK))[None, :]
        hit = (scores >= least) & (i < rows) & (j < columns) & (j > i)
        total = tl.sum(tl.sum(hit.to(tl.int32), axis=1), axis=0)
        if total > 0:
            if CUMSUM:
                flags = tl.reshape(hit.to(tl.int32), (BLOCK * BLOCK,))
                place = tl.atomic_add(counter, total) + tl.cumsum(flags, axis=0) - 1
                flat = tl.arange(0, BLOCK * BLOCK)
                keep = (flags > 0) & (place < capacity)
                tl.store(found_a + place, m * BLOCK + flat // BLOCK, mask=keep)
                tl.store(found_b + place, n * BLOCK + flat % BLOCK, mask=keep)
            else:
                place = tl.atomic_add(counter + tl.zeros((BLOCK, BLOCK), dtype=tl.int32), 1, mask=hit)
                keep = hit & (place < capacity)
                tl.store(found_a + place, i + tl.zeros((BLOCK, BLOCK), dtype=tl.int32), mask=keep)
                tl.store(found_b + place, j + tl.zeros((BLOCK, BLOCK), dtype=tl.int32), mask=keep)


def _one_pass(span: Span, bound: Bound, cumsum: bool, capacity: int) -> int:
    a, b = (torch.empty(max(capacity, 1), dtype=torch.int32, device=span.left.device) for _ in range(2))
    counter = torch.zeros(1, dtype=torch.int32, device=span.left.device)
    shape = kernels.SHAPES[bound.precision]
    blocks = len(span.left) // shape.rows
    _emit_at_once[blocks, blocks](
        span.left, span.right, a, b, counter, len(span), len(span), bound.min_score, capacity,
        CUMSUM=cumsum, WIDTH=span.left.shape[1], BLOCK=shape.rows, BLOCK_K=shape.depth,
        DOT=kernels._DOT[bound.precision], num_warps=8, num_stages=3,
    )  # fmt: skip
    return int(counter)

"""Triton kernels of the pair search: which blocks of scores hold candidates, which pairs these are, how far apart.

Almost all blocks hold none. So the first kernel does nothing but multiply and take the maximum of each block; scores
live in registers, one byte a block is written. The few blocks that are left are multiplied once more, to count their
candidates, and again, to write them at places known beforehand: no atomic operation, and one order, whatever the device
does first. Columns come padded (:mod:`pipeline.neighbors.gpu_tile`), so that no load of the first kernel needs a mask.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.neighbors.lower_bound import Precision

ROW_MULTIPLE = 256
"""Rows are padded to a multiple of it, which every block size divides."""

# Pairs that one program compares in full, and coordinates of them that it reads at a time.
_PAIRS, _CHUNK = 8, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How a block of scores is computed: ``rows`` by ``columns``, ``depth`` coordinates at a time; ``strip`` blocks
    beside each other by one program, which keeps its rows."""

    rows: int
    columns: int
    depth: int
    strip: int
    warps: int
    stages: int


# Compiled for sm_90 they use its tensor cores and spill no register. That of bfloat16 was the fastest at the
# usual 64 columns, on an H100 (benchmarks/gpu/rates.py: 611 TFLOP/s); those of the others were not compared yet.
SHAPES: "dict[Precision, Shape]" = {
    "bfloat16": Shape(rows=128, columns=128, depth=64, strip=64, warps=4, stages=3),
    "tfloat32": Shape(rows=128, columns=128, depth=32, strip=16, warps=4, stages=3),
    "float32": Shape(rows=64, columns=64, depth=32, strip=16, warps=4, stages=2),
}
# Of the few blocks that are gone through again: warps and stages only, blocks are those of the flags.
GOING_THROUGH = Shape(rows=0, columns=0, depth=0, strip=1, warps=8, stages=2)
_DOT = {"bfloat16": "ieee", "tfloat32": "tf32", "float32": "ieee"}


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    side, block, start, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    # Row numbers times width may pass 2^31.
    row = (block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    return tl.load(side + row[:, None] * WIDTH + (start + tl.arange(0, BLOCK_K))[None, :])


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    left, right, m, n,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    scores = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in tl.range(0, WIDTH, BLOCK_K):
        x = _rows(left, m, start, WIDTH, BLOCK_M, BLOCK_K)
        y = _rows(right, n, start, WIDTH, BLOCK_N, BLOCK_K)
        scores = tl.dot(x, tl.trans(y), scores, input_precision=DOT)
    return scores


@triton.jit(do_not_specialize=["row_blocks", "column_blocks"])
def _flag_blocks(  # type: ignore[no-untyped-def]
    left, right, flags, row_blocks, column_blocks, least,
    SAME: tl.constexpr, STRIP: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    first = tl.program_id(1) * STRIP
    # Of a side against itself, nothing below the diagonal.
    diagonal = m * BLOCK_M // BLOCK_N
    if (not SAME) or (first + STRIP > diagonal):
        if WIDTH == BLOCK_K:
            x = _rows(left, m, 0, WIDTH, BLOCK_M, BLOCK_K)
        for step in tl.range(0, STRIP):
            # The last strip may be shorter: its last block is done again, which is cheaper than a branch.
            n = tl.minimum(first + step, column_blocks - 1)
            if WIDTH == BLOCK_K:
                y = _rows(right, n, 0, WIDTH, BLOCK_N, BLOCK_K)
                scores = tl.dot(x, tl.trans(y), input_precision=DOT)
            else:
                scores = _scores(left, right, m, n, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, DOT)
            hot = tl.max(tl.max(scores, axis=1), axis=0) >= least
            if SAME:
                hot = hot & (n >= diagonal)
            tl.store(flags + m.to(tl.int64) * column_blocks + n, hot.to(tl.int8))


@triton.jit(do_not_specialize=["rows", "columns"])
def _go_through(  # type: ignore[no-untyped-def]
    left, right, blocks, places, found_a, found_b, rows, columns, least,
    SAME: tl.constexpr, EMIT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0)
    m, n = tl.load(blocks + 2 * at), tl.load(blocks + 2 * at + 1)
    scores = _scores(left, right, m, n, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, DOT)
    i = (m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    j = (n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    hit = (scores >= least) & (i < rows) & (j < columns)
    if SAME:
        hit = hit & (j > i)
    flags = tl.reshape(hit.to(tl.int32), (BLOCK_M * BLOCK_N,))
    if EMIT:
        place = tl.load(places + at) + tl.cumsum(flags, axis=0) - 1
        flat = tl.arange(0, BLOCK_M * BLOCK_N)
        tl.store(found_a + place, (m * BLOCK_M + flat // BLOCK_N).to(tl.int32), mask=flags > 0)
        tl.store(found_b + place, (n * BLOCK_N + flat % BLOCK_N).to(tl.int32), mask=flags > 0)
    else:
        tl.store(places + at, tl.sum(flags, axis=0).to(tl.int64))


@triton.jit(do_not_specialize=["count"])
def _squared_distances(  # type: ignore[no-untyped-def]
    left, right, a, b, squared, count, WIDTH: tl.constexpr, PAIRS: tl.constexpr, CHUNK: tl.constexpr
):
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    real = pair < count
    x_row = tl.load(a + pair, mask=real, other=0).to(tl.int64) * WIDTH
    y_row = tl.load(b + pair, mask=real, other=0).to(tl.int64) * WIDTH
    total = tl.zeros((PAIRS, CHUNK), dtype=tl.float64)
    for start in tl.range(0, WIDTH, CHUNK):
        k = start + tl.arange(0, CHUNK)
        inside = real[:, None] & (k < WIDTH)[None, :]
        x = tl.load(left + x_row[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32).to(tl.float64)
        y = tl.load(right + y_row[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32).to(tl.float64)
        total += (x - y) * (x - y)
    tl.store(squared + pair, tl.sum(total, axis=1), mask=real)


def flag_blocks(
    left: "Tensor", right: "Tensor", least: float, precision: "Precision", *, same: bool, shape: Shape | None = None
) -> "Tensor":
    """Whether a block of ``left @ right.T`` has a score of at least ``least``.

    Args:
        left: (R, W), contiguous, R a multiple of ``ROW_MULTIPLE``, W of the shape's depth.
        right: (C, W), the same.
        least: score of a candidate.
        precision: of the factors.
        same: both are the same rows, and blocks below the diagonal stay 0.
        shape: block sizes; none means those of the precision.

    Returns:
        (row blocks, column blocks) int8.
    """
    shape = shape or SHAPES[precision]
    blocks = len(left) // shape.rows, len(right) // shape.columns
    shape = dataclasses.replace(shape, strip=min(shape.strip, triton.next_power_of_2(blocks[1])))
    flags = torch.zeros(blocks, dtype=torch.int8, device=left.device)
    _flag_blocks[blocks[0], triton.cdiv(blocks[1], shape.strip)](
        left, right, flags, *blocks, least, SAME=same, STRIP=shape.strip, **_constants(left, precision, shape)
    )
    return flags


def count_candidates(
    left: "Tensor", right: "Tensor", blocks: "Tensor", sides: tuple[int, int], least: float, precision: "Precision",
    *, same: bool,
) -> "Tensor":  # fmt: skip
    """How many candidates each of some blocks has.

    Args:
        left: as of :func:`flag_blocks`, and so are ``right``, ``least``, ``precision`` and ``same``.
        right: the other side.
        blocks: (B, 2) int32, row and column of each block.
        sides: rows of both sides, without padding.
        least: score of a candidate.
        precision: of the factors.
        same: both are the same rows.

    Returns:
        (B,) int64.
    """
    counts = torch.empty(len(blocks), dtype=torch.int64, device=left.device)
    constants = _constants(left, precision, _again(precision))
    if len(blocks):
        _go_through[(len(blocks),)](
            left, right, blocks, counts, counts, counts, *sides, least, SAME=same, EMIT=False, **constants
        )
    return counts


def emit_candidates(
    left: "Tensor", right: "Tensor", blocks: "Tensor", counts: "Tensor", sides: tuple[int, int], least: float,
    precision: "Precision", *, same: bool, total: int,
) -> "tuple[Tensor, Tensor]":  # fmt: skip
    """The candidates of some blocks, block by block.

    Args:
        left: as of :func:`count_candidates`, and so are all but ``counts`` and ``total``.
        right: the other side.
        blocks: (B, 2) int32, row and column of each block.
        counts: (B,) int64, what :func:`count_candidates` has returned for them.
        sides: rows of both sides, without padding.
        least: score of a candidate.
        precision: of the factors.
        same: both are the same rows.
        total: sum of ``counts``.

    Returns:
        Positions (a, b) int32 in the two sides, (total,) each.
    """
    a, b = (torch.empty(total, dtype=torch.int32, device=left.device) for _ in range(2))
    places = counts.cumsum(0) - counts
    constants = _constants(left, precision, _again(precision))
    if total:
        _go_through[(len(blocks),)](left, right, blocks, places, a, b, *sides, least, SAME=same, EMIT=True, **constants)
    return a, b


def squared_distances(left: "Tensor", right: "Tensor", a: "Tensor", b: "Tensor") -> "Tensor":
    """(P,) float64: ‖left[a] − right[b]‖² from float64 differences of the stored values, as in
    :mod:`pipeline.neighbors.distances`."""
    squared = torch.empty(len(a), dtype=torch.float64, device=left.device)
    if len(a):
        grid = (triton.cdiv(len(a), _PAIRS),)
        _squared_distances[grid](
            left, right, a, b, squared, len(a), WIDTH=left.shape[1], PAIRS=_PAIRS, CHUNK=_CHUNK, enable_fp_fusion=False
        )
    return squared


def _again(precision: "Precision") -> Shape:
    return dataclasses.replace(SHAPES[precision], warps=GOING_THROUGH.warps, stages=GOING_THROUGH.stages)


def _constants(left: "Tensor", precision: "Precision", shape: Shape) -> dict[str, Any]:
    return {
        "WIDTH": left.shape[1], "BLOCK_M": shape.rows, "BLOCK_N": shape.columns, "BLOCK_K": shape.depth,
        "DOT": _DOT[precision], "num_warps": shape.warps, "num_stages": shape.stages, "enable_fp_fusion": False,
    }  # fmt: skip

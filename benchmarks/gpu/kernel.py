"""The pair search's kernels against float64: no near pair lost, distances equal to the last bit, the same forest."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.hard_data import DATA, T, forest, near_pairs
from benchmarks.gpu.parts import Setting
from pipeline.graph.forest import Edges
from pipeline.neighbors.gpu_tile import Span, candidates, on_host, search_spans
from pipeline.neighbors.lower_bound import Bound, Precision, principal_axes

# Rows, width, coordinates of the bound: widths that no block divides, sides of one row and of one more than a block.
_CASES = [(8193, 1280, 57), (8193, 100, 57), (2049, 37, 30), (700, 513, 121), (129, 7, 7), (1, 1280, 57), (2, 64, 1)]
_TINY = [(67, 37, 25), (1, 40, 13)]


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    # Triton's interpreter works in numpy, which has no bfloat16.
    precisions: tuple[Precision, ...] = ("bfloat16", "tfloat32", "float32") if setting.cuda else ("tfloat32", "float32")
    for name, make in DATA.items():
        for rows, width, prefix in _TINY if setting.tiny else _CASES:
            vectors = make(np.random.default_rng([rows, width]), rows, width)
            pairs = near_pairs(vectors, T)
            for precision in precisions:
                yield {"data": name, "rows": rows, "width": width, **_check(vectors, pairs, prefix, precision, setting)}
    if not setting.cuda:
        yield {"what": "bfloat16", "status": "needs CUDA"}


def _check(vectors: np.ndarray, pairs: Edges, prefix: int, precision: Precision, setting: Setting) -> dict[str, Any]:
    bound = Bound(prefix=prefix, precision=precision, max_distance=T, tensor_cores=True)
    on_device = torch.from_numpy(vectors).to(setting.device)
    basis = principal_axes(on_device[:4096].cpu(), prefix).to(setting.device)
    span = Span.of(torch.arange(len(vectors), device=setting.device), on_device, basis, bound)
    # Sorted where they are: there may be tens of millions.
    found = [a.long() * len(vectors) + b.long() for a, b in candidates(span, span, bound)]
    keys = torch.cat([*found, torch.empty(0, dtype=torch.int64, device=setting.device)]).sort().values
    near = torch.from_numpy(pairs.a * len(vectors) + pairs.b).to(setting.device)
    lost = int((~torch.isin(near, keys, assume_unique=True)).sum())
    edges = on_host(search_spans(span, span, bound, nodes=len(vectors)).edges)
    expected = forest(vectors, pairs)
    equal = all(np.array_equal(getattr(edges, name), getattr(expected, name)) for name in ("a", "b", "distance"))
    sound = bool((keys[1:] > keys[:-1]).all()) and bool((keys // len(vectors) < keys % len(vectors)).all())
    return {
        "precision": precision,
        "pairs": len(pairs),
        "candidates": len(keys),
        "lost": lost,
        "forest_equal": equal,
        "ok": equal and not lost and sound,
    }

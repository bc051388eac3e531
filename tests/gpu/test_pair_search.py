"""The pair search on a GPU against float64 on the host."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu.hard_data import DATA, T, forest, near_pairs
from pipeline.graph.boruvka import DeviceEdges, spanning_forest
from pipeline.neighbors import gpu_kernels as kernels
from pipeline.neighbors.gpu_tile import Span, candidates, on_host, search_spans, to_device
from pipeline.neighbors.lower_bound import Bound, principal_axes

PRECISIONS = ["bfloat16", "tfloat32", "float32"]


def _span(vectors: np.ndarray, bound: Bound, start: int = 0) -> Span:
    device = torch.device("cuda")
    basis = principal_axes(torch.from_numpy(vectors[:4096]), bound.prefix).to(device)
    numbers = torch.arange(start, start + len(vectors), device=device)
    return Span.of(numbers, to_device(vectors, np.arange(len(vectors)), device), basis, bound)


def _bound(precision: str, prefix: int) -> Bound:
    return Bound(prefix=prefix, precision=precision, max_distance=T, tensor_cores=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("rows", "width", "prefix"), [(1500, 200, 57), (257, 33, 20), (1, 16, 9)])
def test_the_forest_is_that_of_float64(name: str, precision: str, rows: int, width: int, prefix: int) -> None:
    vectors = DATA[name](np.random.default_rng(rows), rows, width)
    pairs = near_pairs(vectors, T)
    span, bound = _span(vectors, _bound(precision, prefix)), _bound(precision, prefix)
    found = search_spans(span, span, bound, nodes=rows)
    expected, edges = forest(vectors, pairs), on_host(found.edges)
    assert all(np.array_equal(getattr(edges, part), getattr(expected, part)) for part in ("a", "b", "distance"))
    assert found.candidates >= len(pairs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_spans_give_the_pairs_between_them(precision: str) -> None:
    vectors = DATA["near copies"](np.random.default_rng(0), 900, 64)
    bound = _bound(precision, 40)
    basis = principal_axes(torch.from_numpy(vectors), 40).cuda()
    numbers, on_device = torch.arange(900, device="cuda"), torch.from_numpy(vectors).cuda()
    first, second = (Span.of(numbers[part], on_device[part], basis, bound) for part in (slice(0, 301), slice(301, 900)))
    found = on_host(search_spans(first, second, bound, nodes=900).edges)
    pairs = near_pairs(vectors, T)
    expected = forest(vectors, pairs.take((pairs.a < 301) & (pairs.b >= 301)))
    assert np.array_equal(found.a, expected.a) and np.array_equal(found.b, expected.b)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("width", [1, 100, 256, 1280])
def test_distances_are_those_of_numpy(dtype: type, width: int) -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(n, width)).astype(dtype) / np.sqrt(width).astype(dtype) for n in (50, 70))
    a, b = rng.integers(0, 50, 1001), rng.integers(0, 70, 1001)
    ends = (torch.from_numpy(end).int().cuda() for end in (a, b))
    found = (
        kernels.squared_distances(torch.from_numpy(left).cuda(), torch.from_numpy(right).cuda(), *ends).cpu().numpy()
    )
    difference = left[a].astype(np.float64) - right[b].astype(np.float64)
    expected = np.einsum("ij,ij->i", difference, difference)
    if dtype == np.float16:
        assert np.array_equal(found, expected)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)


def test_candidates_come_in_parts_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.neighbors import gpu_tile as device_search

    vectors = DATA["crowded"](np.random.default_rng(0), 700, 64)
    bound = _bound("bfloat16", 57)
    span = _span(vectors, bound)
    whole = torch.cat([torch.stack(part) for part in candidates(span, span, bound)], dim=1)
    monkeypatch.setattr(device_search, "_CANDIDATES", 1000)
    monkeypatch.setattr(device_search, "_HELD", 500)
    parts = [torch.stack(part) for part in candidates(span, span, bound)]
    assert len(parts) > 5 and torch.equal(torch.cat(parts, dim=1), whole)
    edges = on_host(search_spans(span, span, bound, nodes=700).edges)
    assert np.array_equal(edges.a, forest(vectors, near_pairs(vectors, T)).a)


def test_a_forest_of_many_edges_is_that_of_scipy() -> None:
    from pipeline.graph.forest import Edges, minimum_spanning_forest

    rng = np.random.default_rng(0)
    a, b = np.sort(rng.integers(0, 5000, (2, 100_000)), axis=0)
    keep = a < b
    edges = Edges(a=a[keep], b=b[keep], distance=rng.integers(0, 50, keep.sum()).astype(np.float32))
    on_device = DeviceEdges(**{name: torch.from_numpy(getattr(edges, name)).cuda() for name in ("a", "b", "distance")})
    found, expected = on_host(spanning_forest(5000, on_device)), minimum_spanning_forest(5000, edges)
    assert all(np.array_equal(getattr(found, part), getattr(expected, part)) for part in ("a", "b", "distance"))


def test_the_whole_search_writes_the_same_file_on_either_device(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pipeline.neighbors.search import near_duplicate_forest
    from tests.oracles import write_embeddings

    rng = np.random.default_rng(0)
    vectors = np.concatenate([DATA["near copies"](rng, 3000, 96), DATA["crowded"](rng, 500, 96)])
    path = write_embeddings(tmp_path / "e.parquet", rng.permutation(len(vectors)), vectors)
    outputs = []
    for device, tile_rows in (("cpu", 1000), ("cuda", None), ("cuda", 700)):
        outputs.append(tmp_path / f"{device}-{tile_rows}.parquet")
        near_duplicate_forest(
            path, outputs[-1], max_distance=T, device=device, tile_rows=tile_rows, memory_limit=64 * 10**9  # type: ignore[arg-type]
        )  # fmt: skip
    assert len({output.read_bytes() for output in outputs}) == 1
    assert torch.cuda.memory_allocated() == 0

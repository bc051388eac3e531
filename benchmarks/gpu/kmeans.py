"""k-means on a GPU: nearest centroids of a million rows, and steps of Lloyd's algorithm, in torch and in faiss."""

import functools
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.timing import peak, seconds

# Products of rows and centroids that are held at a time.
_ELEMENTS = 1 << 30


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    rows, width, counts = (1_000_000, 1280, (10_000, 100_000)) if setting.cuda else (500, 32, (20,))
    vectors = _draw(rows, width, setting)
    ceiling = peak(setting.device, torch.bfloat16)
    for clusters in counts:
        centroids = vectors[torch.randperm(rows, device=setting.device)[:clusters]].float()
        exact = nearest(vectors[:4096], centroids, torch.float64)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            # float32 at many clusters takes seconds and tells nothing that few do not.
            part = vectors if dtype != torch.float32 else vectors[: rows // 16]
            taken = seconds(functools.partial(nearest, part, centroids, dtype), setting.device, rounds=3)
            labels = nearest(vectors[:4096], centroids, dtype)
            operations = 2 * len(part) * width * clusters
            yield {
                "what": "assignment in torch",
                "type": str(dtype).removeprefix("torch."),
                "clusters": clusters,
                "rows": len(part),
                "seconds": round(taken, 4),
                "tflops": round(operations / taken / 1e12, 1),
                "share_of_bf16_peak": round(operations / taken / ceiling, 3),
                "same_label_as_float64": round(float((labels == exact).float().mean()), 5),
                "distance_over_float64": _excess(vectors[:4096], centroids, labels, exact),
            }
        taken = seconds(functools.partial(lloyd_step, vectors, centroids, torch.bfloat16), setting.device, rounds=3)
        yield {"what": "Lloyd step in torch, bfloat16", "clusters": clusters, "rows": rows, "seconds": round(taken, 4)}
    yield from _faiss(vectors, counts, setting)


def nearest(vectors: torch.Tensor, centroids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N,) number of the nearest centroid, by ‖c‖²/2 − x·c, the product with inputs of ``dtype``."""
    sum_type = torch.float64 if dtype == torch.float64 else torch.float32
    keys = centroids.to(dtype)
    half_norms = centroids.to(sum_type).square().sum(dim=1) / 2
    # Otherwise sums of short products would be rounded to their short type.
    wide = {"out_dtype": torch.float32} if vectors.is_cuda and dtype.itemsize == 2 else {}
    labels = []
    for part in vectors.split(max(_ELEMENTS // len(centroids), 1)):
        product = torch.mm(part.to(dtype), keys.T, **wide)
        labels.append((product - half_norms).argmax(dim=1))
    return torch.cat(labels)


def lloyd_step(vectors: torch.Tensor, centroids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Means of the rows that are nearest to each centroid, which stays where there are none."""
    labels = nearest(vectors, centroids, dtype)
    sums = torch.zeros_like(centroids)
    for part, chosen in zip(vectors.split(1 << 17), labels.split(1 << 17)):
        sums.index_add_(0, chosen, part.float())
    sizes = torch.bincount(labels, minlength=len(centroids))[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)


def _draw(rows: int, width: int, setting: Setting) -> torch.Tensor:
    scale = torch.arange(1, width + 1, device=setting.device) ** -0.5
    found = torch.empty(rows, width, dtype=torch.float16, device=setting.device)
    for part in found.split(1 << 17):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device=setting.device) * scale, dim=1))
    return found


def _excess(vectors: torch.Tensor, centroids: torch.Tensor, labels: torch.Tensor, exact: torch.Tensor) -> float:
    """By how much the mean squared distance is larger than that of the exact labels, as a share of it."""
    mean = [(vectors.double() - centroids[chosen].double()).square().sum(dim=1).mean() for chosen in (labels, exact)]
    return float(f"{float(mean[0] / mean[1] - 1):.2e}")


def _faiss(vectors: torch.Tensor, counts: tuple[int, ...], setting: Setting) -> Iterator[dict[str, Any]]:
    try:
        import faiss
    except ImportError:
        yield {"what": "assignment in faiss", "status": "needs faiss"}
        return
    if setting.cuda and not faiss.get_num_gpus():
        yield {"what": "assignment in faiss", "status": "needs faiss with GPUs"}
        return
    rows = vectors[:100_000].float().cpu().numpy()
    for clusters in counts:
        index: Any = faiss.IndexFlatL2(rows.shape[1])
        if setting.cuda:
            index = faiss.index_cpu_to_all_gpus(index)
        index.add(rows[:clusters])
        taken = seconds(functools.partial(index.search, rows, 1), setting.device, rounds=3)
        operations = 2 * rows.size * min(clusters, len(rows))
        yield {
            "what": "assignment in faiss",
            "clusters": clusters,
            "rows": len(rows),
            "seconds": round(taken, 4),
            "tflops": round(operations / taken / 1e12, 1),
        }
